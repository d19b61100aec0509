use transship_model::*;
use transship_registry::*;
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measure() {
    let (a, b) = (std::env::var("A").unwrap(), std::env::var("B").unwrap());
    let http = Http::new().unwrap();
    let reg = |n: &str, u: &str| {
        Registry::new(
            &http,
            RegistryConfig {
                name: n.into(),
                endpoint: u.parse().unwrap(),
                kind: Kind::Oci,
                credentials: Login::Anonymous,
                token_realm: None,
                plain_http: false,
            },
        )
        .unwrap()
    };
    let (s, t) = (Endpoint::new(&reg("a", &a), "big".parse().unwrap()), Endpoint::new(&reg("b", &b), "big".parse().unwrap()));
    let tag = std::env::var("TAG").unwrap().parse().unwrap();
    let started = std::time::Instant::now();
    let out = Copier::default().copy(&s, &tag, &t, &tag, Options { overwrite: true, referrers: true }, &()).await.unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let hwm = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    println!(
        "{:?} wall {:?} {hwm} utime {} stime {} (ticks)",
        match out {
            Outcome::Copied { moved, .. } => Some(moved),
            _ => None,
        },
        started.elapsed(),
        f[11],
        f[12]
    );
}
