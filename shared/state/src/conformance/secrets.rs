//! What a [`SecretStore`] promises, seen by those who put secrets there and by those who read them.

use secrecy::{ExposeSecret as _, SecretString};
use transship_model::{SecretName, SecretRef};

use super::unique;
use crate::{SecretStore, Secrets};

/// Runs all checks. `reader` makes a reader of what is kept, as another process has it: one with no memory of what others have read.
pub async fn secrets<R: Secrets>(store: &dyn SecretStore, reader: impl Fn() -> R) {
    let run = unique();
    let name = |of: &str| format!("instances/c{run}/{of}").parse::<SecretName>().unwrap();
    let read = async |name: &SecretName| {
        let secret = reader().read(&SecretRef::Stored(name.clone())).await;
        secret.map(|secret| secret.expose_secret().to_owned()).map_err(|error| error.to_string())
    };
    let (first, second) = (name("credentials-1"), name("credentials-2"));
    let values = [(&first, "s3cret-ü \"\\ with blanks"), (&second, "another")];
    for (name, value) in values {
        store.create(name, &SecretString::from(value)).await.unwrap();
    }
    for (name, value) in values {
        assert_eq!(read(name).await.as_deref(), Ok(value), "a password that is not the one that was given lets nobody in");
    }

    let again = store.create(&first, &SecretString::from("other")).await;
    let error = again.expect_err("a name stands for one value for ever: who has read it may go on using it").to_string();
    assert!(
        error.contains(first.as_str()) && !error.contains("other"),
        "an error names the secret and does not tell it: {error}"
    );
    assert_eq!(read(&first).await.as_deref(), Ok(values[0].1), "what was refused has changed something");

    store.delete(&first).await.unwrap();
    let error = read(&first).await.expect_err("a secret that was taken away is still there");
    assert!(error.contains(first.as_str()), "nobody knows which secret is missing: {error}");
    store.delete(&first).await.expect("a crash between two steps has it taken away twice");
    store.delete(&name("never")).await.expect("what is noted before it is made may never have been made");
    assert_eq!(read(&second).await.as_deref(), Ok(values[1].1), "another secret went with it");
    store.delete(&second).await.unwrap();
}
