//! Tokens, the audit and answers that are given again, on the embedded store.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use transship_model::{Caller, Role};
use transship_state::{
    Answer, AuditEntry, AuditLog, AuditQuery, Begun, Fingerprint, Idempotency, Item, Key, MintedToken, NewToken, Op, Page,
    Query, Table, TableError, TokenRefusal, Tokens, sqlite::SqliteStore,
};

/// A table in a folder that goes away with it, which counts what is asked of it.
struct Counting {
    table: Arc<dyn Table>,
    reads: AtomicUsize,
    writes: AtomicUsize,
    _dir: tempfile::TempDir,
}

impl Counting {
    fn new() -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        let table = Arc::new(SqliteStore::open(dir.path()).unwrap().table());
        Arc::new(Self { table, reads: AtomicUsize::new(0), writes: AtomicUsize::new(0), _dir: dir })
    }

    fn counts(&self) -> (usize, usize) {
        (self.reads.swap(0, Ordering::SeqCst), self.writes.swap(0, Ordering::SeqCst))
    }
}

#[async_trait]
impl Table for Counting {
    async fn get(&self, key: &Key) -> Result<Option<Item>, TableError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.table.get(key).await
    }

    async fn query(&self, query: Query) -> Result<Page, TableError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.table.query(query).await
    }

    async fn write(&self, ops: Vec<Op>) -> Result<(), TableError> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.table.write(ops).await
    }
}

fn after(seconds: u64) -> Timestamp {
    Timestamp::now() + Duration::from_secs(seconds)
}

fn entry(who: &str, what: &str) -> AuditEntry {
    AuditEntry::new(&Caller::all_powerful(who), "thing.change", what, "a to b")
}

async fn make(table: &Arc<Counting>, tokens: &Tokens, expires: Option<Timestamp>) -> MintedToken {
    let new = NewToken { name: "ci".into(), role: Role::Viewer, instances: None, expires };
    let minted = MintedToken::new(new, "deployment", Timestamp::now()).unwrap();
    let audit = AuditLog::new(table.clone());
    tokens.create(&minted, audit.op(&entry("deployment", minted.token.id.as_str())).unwrap()).await.unwrap();
    minted
}

/// Would break: a token that lets in who has only its ID or another's secret; one that is refused without the log knowing why.
#[tokio::test]
async fn a_token_lets_its_bearer_in_and_nobody_else() {
    let table = Counting::new();
    let tokens = Tokens::new(table.clone());
    let (a, b) = (make(&table, &tokens, None).await, make(&table, &tokens, Some(after(60))).await);
    let (text, other) = (a.secret.expose_secret(), b.secret.expose_secret());
    let admit = async |text: &str, at: Timestamp| tokens.admit(text, at).await.unwrap();
    assert_eq!(admit(text, after(0)).await.unwrap().id, a.token.id);
    assert_eq!(admit(other, after(0)).await.unwrap().role, Role::Viewer);
    assert_eq!(admit(other, after(61)).await, Err(TokenRefusal::Expired));

    table.counts();
    for mistyped in
        [&text[..text.len() - 1], &format!("{text}0"), &text.replace("tsh_", "tsx_"), &text.to_uppercase(), "", "tsh_"]
    {
        assert_eq!(admit(mistyped, after(0)).await, Err(TokenRefusal::NoToken), "{mistyped}");
    }
    assert_eq!(table.counts(), (0, 0), "the table is not asked about what can't be a token");

    // The checksum is no secret: anybody can make one.
    let elsewhere = Tokens::new(Counting::new());
    assert_eq!(elsewhere.admit(text, after(0)).await.unwrap(), Err(TokenRefusal::Unknown));
    let forged = forge(a.token.id.as_str());
    assert_eq!(admit(&forged, after(0)).await, Err(TokenRefusal::Wrong));
}

/// A text of the form of a token, of a known ID and a secret of somebody's own.
fn forge(id: &str) -> String {
    use sha2::{Digest as _, Sha256};
    let body = format!("tsh_{id}_{}", "0".repeat(64));
    let check: String = Sha256::digest(&body)[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{body}{check}")
}

/// Would break: a token in the table, from which whoever reads it could call the API.
#[tokio::test]
async fn a_token_itself_is_nowhere_in_the_table() {
    let table = Counting::new();
    let minted = make(&table, &Tokens::new(table.clone()), None).await;
    let stored = format!("{:?}", table.get(&Key::new("tokens", minted.token.id.as_str())).await.unwrap().unwrap());
    let secret = &minted.secret.expose_secret()[21..85];
    assert!(stored.contains("hash") && !stored.contains(secret), "{stored}");
    assert!(!format!("{minted:?}").contains(secret));
}

/// Would break: a revoked token that works on elsewhere for longer than ten seconds, or at all where it was revoked; a read of the table
/// for each request, or a write.
#[tokio::test]
async fn a_token_is_read_every_ten_seconds_and_its_use_written_every_hour() {
    let table = Counting::new();
    let (here, elsewhere) = (Tokens::new(table.clone()), Tokens::new(table.clone()));
    let minted = make(&table, &here, None).await;
    let text = minted.secret.expose_secret();
    table.counts();
    let start = after(0);
    let at = |seconds| start + Duration::from_secs(seconds);
    for second in 0..10 {
        assert!(elsewhere.admit(text, at(second)).await.unwrap().is_ok());
    }
    assert_eq!(table.counts(), (1, 1));
    assert!(elsewhere.admit(text, at(11)).await.unwrap().is_ok());
    assert_eq!(table.counts(), (1, 0), "its use is known for this hour");
    assert!(elsewhere.admit(text, at(3700)).await.unwrap().is_ok());
    assert_eq!(table.counts(), (1, 1));
    assert_eq!(here.read(&minted.token.id).await.unwrap().unwrap().last_used, Some(at(3700)));

    let op = AuditLog::new(table.clone()).op(&entry("deployment", "t")).unwrap();
    assert!(here.revoke(&minted.token.id, at(3701), op).await.unwrap());
    assert_eq!(here.admit(text, at(3701)).await.unwrap(), Err(TokenRefusal::Revoked));
    assert_eq!(elsewhere.admit(text, at(3711)).await.unwrap(), Err(TokenRefusal::Revoked));
    let shown = here.list(None, 10).await.unwrap().items;
    assert_eq!(shown.iter().map(|token| token.revoked).collect::<Vec<_>>(), [Some(at(3701))], "it is still shown");
    let unknown = "0000000000000000".parse().unwrap();
    let op = AuditLog::new(table.clone()).op(&entry("deployment", "t")).unwrap();
    assert!(!here.revoke(&unknown, at(0), op).await.unwrap());
}

/// Would break: an entry that a page leaves out or shows twice, also where a month ends; one of somebody else, or of another time.
#[tokio::test]
async fn the_audit_is_read_in_pages_over_months_newest_first() {
    let table = Counting::new();
    let audit = AuditLog::new(table.clone());
    let now = Timestamp::now();
    let days_ago = |days: u64| now - Duration::from_secs(days * 24 * 3600);
    // One in ten days, the oldest beyond a year.
    for n in 0..40_u64 {
        let who = if n % 2 == 0 { "alice" } else { "bob" };
        let entry = AuditEntry { at: days_ago(10 * n), ..entry(who, &format!("thing-{n}")) };
        table.write(vec![audit.op(&entry).unwrap()]).await.unwrap();
    }
    let walk = async |mut query: AuditQuery| {
        let mut names = Vec::new();
        loop {
            let page = audit.list(&query, now).await.unwrap();
            assert!(page.items.len() <= query.limit);
            names.extend(page.items.into_iter().map(|entry| entry.what.trim_start_matches("thing-").parse::<u64>().unwrap()));
            let Some(next) = page.next else { return names };
            query.after = Some(next.parse().unwrap());
        }
    };
    let all = AuditQuery { limit: 7, ..AuditQuery::default() };
    assert_eq!(walk(all.clone()).await, (0..=36).collect::<Vec<_>>(), "a year of them");
    let one = AuditQuery { limit: 1, ..all.clone() };
    assert_eq!(walk(one).await, (0..=36).collect::<Vec<_>>());
    let bob = AuditQuery { who: Some("bob".into()), ..all.clone() };
    assert_eq!(walk(bob).await, (0..=36).filter(|n| n % 2 == 1).collect::<Vec<_>>());
    let between = AuditQuery { since: Some(days_ago(100)), until: Some(days_ago(50)), ..all.clone() };
    assert_eq!(walk(between).await, (6..=10).collect::<Vec<_>>(), "from since on, and before until");
    let exact = AuditQuery { limit: 37, ..all };
    assert_eq!(audit.list(&exact, now).await.unwrap().next, None, "the last page says that it is");
}

/// Would break: a request that starts something twice because its answer was lost; an answer to one that nobody has sent; a key that a
/// failure uses up.
#[tokio::test]
async fn a_key_stands_for_one_request_of_one_caller() {
    let table = Counting::new();
    let answered = Idempotency::new(table.clone());
    let request = |body: &str| Fingerprint::new("POST", "/v1/things", body.as_bytes());
    let begin = async |caller: &str, body: &str| answered.begin(caller, "key", request(body)).await.unwrap();

    let Begun::First(run) = begin("alice", "a").await else { panic!("the first is carried out") };
    assert!(matches!(begin("alice", "a").await, Begun::Running));
    assert!(matches!(begin("alice", "b").await, Begun::Other));
    assert!(matches!(begin("bob", "b").await, Begun::First(_)), "another's key is another key");
    answered.release(run).await.unwrap();
    let Begun::First(run) = begin("alice", "a").await else { panic!("nothing was begun") };
    let answer = Answer { status: 202, headers: BTreeMap::from([("location".into(), "/v1/x".into())]), body: "{}".into() };
    answered.finish(run, request("a"), answer.clone()).await.unwrap();
    let Begun::Again(again) = begin("alice", "a").await else { panic!("it has been answered") };
    assert_eq!(again, answer);
    assert!(matches!(begin("alice", "b").await, Begun::Other));
}
