//! The configuration of the commands that call the API: `transship/config.yaml` in the folder that holds a user's configuration.

use std::path::{Path, PathBuf};

use transship_model::input;
use url::Url;

use super::{LoadError, Mistake, load_as, yaml};
use crate::config::yaml::{Node, Notes};

/// Where the API is and how to be let in, as far as the file says so. The environment and arguments go before it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientConfig {
    /// The address of the API.
    pub(crate) api: Option<Url>,
    /// The file that holds its token.
    pub(crate) token_file: Option<PathBuf>,
}

/// Reads the user's file, if there is one.
///
/// # Errors
/// See [`LoadError`].
pub(crate) fn load() -> Result<ClientConfig, LoadError> {
    match path(|name| std::env::var_os(name).map(PathBuf::from)) {
        Some(path) if path.exists() => load_as(&path, |text| read(text, path.parent().unwrap_or(Path::new("/")))),
        _ => Ok(ClientConfig::default()),
    }
}

/// Where the file is (XDG Base Directory Specification: what is not absolute does not count).
fn path(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let folder = |name| variable(name).filter(|path| path.is_absolute());
    let config = folder("XDG_CONFIG_HOME").or_else(|| folder("HOME").map(|home| home.join(".config")))?;
    Some(config.join("transship").join("config.yaml"))
}

/// Reads the text of a file in this folder.
fn read(text: &str, folder: &Path) -> Result<ClientConfig, Vec<Mistake>> {
    let mut notes = Notes::default();
    let document = yaml::parse(text, &mut notes);
    let root = document.as_ref().map(Node::root).filter(|root| !root.is_null());
    let config = root.map_or_else(ClientConfig::default, |root| keys(&root, folder, &mut notes));
    if notes.mistakes.is_empty() { Ok(config) } else { Err(notes.mistakes) }
}

fn keys(root: &Node<'_>, folder: &Path, notes: &mut Notes) -> ClientConfig {
    let Some(keys) = root.mapping(&["api", "token_file"], notes) else { return ClientConfig::default() };
    // Whether it is spoken to in the clear is said by whoever writes its address.
    let api = keys.get("api").and_then(|node| node.checked(|text| input::realm(text, true), notes));
    let token_file = keys.get("token_file").and_then(|node| node.text(notes)).map(|path| folder.join(path));
    ClientConfig { api, token_file }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: a file that is not found, or found where it should not be looked for.
    #[test]
    fn the_file_is_where_the_user_s_configuration_is() {
        let at = |variables: &[(&str, &str)]| {
            path(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| PathBuf::from(value)))
        };
        let file = |path: &str| Some(PathBuf::from(path));
        assert_eq!(at(&[("HOME", "/home/a")]), file("/home/a/.config/transship/config.yaml"));
        assert_eq!(at(&[("HOME", "/home/a"), ("XDG_CONFIG_HOME", "/etc/a")]), file("/etc/a/transship/config.yaml"));
        assert_eq!(at(&[("HOME", "/home/a"), ("XDG_CONFIG_HOME", "x")]), file("/home/a/.config/transship/config.yaml"));
        assert_eq!(at(&[]), None);
    }

    /// Would break: a mistake in it that sends the token to the default address without a word.
    #[test]
    fn what_it_says_is_read_and_what_is_wrong_with_it_is_told() {
        let config = read("api: https://transship.example.com\ntoken_file: token\n", Path::new("/c")).unwrap();
        assert_eq!(config.api.unwrap().as_str(), "https://transship.example.com/");
        assert_eq!(config.token_file.unwrap(), Path::new("/c/token"));
        assert_eq!(read("", Path::new("/c")), Ok(ClientConfig::default()));
        let mistakes = read("api: nonsense\ntoken: hunter2\n", Path::new("/c")).unwrap_err();
        assert_eq!(mistakes.len(), 2, "{mistakes:?}");
        assert!(!format!("{mistakes:?}").contains("hunter2"), "{mistakes:?}");
    }
}
