//! Lists that come in pages: tags and repositories.

use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    marker::PhantomData,
    str::FromStr,
};

use http::header::LINK;
use reqwest::Response;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use transship_model::{Namespace, Repository, Tag};
use url::Url;

use super::{Registry, send::Call};
use crate::{auth::Scope, error::Error};

/// How many names a page is asked to have. Some registries answer with fewer (Quay 100), distribution 2.8 with all tags.
pub(super) const PAGE: usize = 1000;
const CATALOG: &str = "/v2/_catalog";
/// How large a page may be: 100 000 tags of the greatest length, as distribution 2.8 may send them.
const MAX_PAGE: usize = 16 << 20;
/// How many names are taken from a page: as many git commits as it has room for. A page of nothing but one-letter names would
/// have ten times as many, each of which takes more in memory than it does there.
const MAX_NAMES: usize = 400_000;
/// How many pages a list may have.
const MAX_PAGES: u64 = 10_000;
/// How long the address of a page may be: it goes into messages, in which there is not room for everything.
const MAX_TARGET: usize = 8 << 10;

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// Its items; a page may have none and yet be followed by another.
    pub items: Vec<T>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<Cursor>,
}

impl<T> Page<T> {
    pub(super) fn empty() -> Self {
        Self { items: Vec::new(), next: None }
    }
}

/// A position in a list: the registry's own, and what is needed to see that it leads in a circle. As text it can be kept and
/// gone on from in another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(String);

impl Cursor {
    /// The cursor as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn new(position: &Position) -> Self {
        Self(format!("{}.{:016x} {}", position.page, position.mark, position.target))
    }

    /// Whether it is a position in the list at this path.
    pub(super) fn is_in(&self, path: &str) -> bool {
        let target = self.0.split_once(' ').map_or("", |(_, target)| target);
        target.split('?').next() == Some(path)
    }

    fn position(&self) -> Option<Position> {
        let (state, target) = self.0.split_once(' ')?;
        let (page, mark) = state.split_once('.')?;
        Some(Position { page: page.parse().ok()?, mark: u64::from_str_radix(mark, 16).ok()?, target: target.into() })
    }
}

impl From<String> for Cursor {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a cursor says. Circles are found as Brent does it: one earlier position is remembered, and replaced after 1, 2, 4, 8…
/// pages. A circle of any length comes back to it, and the cursor stays as small on page 5000 as on page 1.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Position {
    /// How many pages have been read.
    page: u64,
    /// The remembered position's hash.
    mark: u64,
    /// Path and query of the next page.
    target: String,
}

impl Position {
    /// The position that follows `before`; `None` if it has been there before.
    fn after(before: Option<&Self>, current: &str, target: String) -> Option<Self> {
        let (page, mark) = before.map_or((0, 0), |position| (position.page, position.mark));
        let mut hasher = DefaultHasher::new();
        target.hash(&mut hasher);
        let hash = hasher.finish();
        if target == current || hash == mark {
            return None;
        }
        let page = page + 1;
        Some(Self { page, mark: if page.is_power_of_two() { hash } else { mark }, target })
    }
}

impl Registry {
    /// A page of a repository's tags, in the registry's order; empty if there is no such repository. Names that are no tags
    /// are left out.
    ///
    /// # Errors
    /// [`Error::Refused`] if the pages lead in a circle or elsewhere; otherwise see [`Error`].
    pub async fn list_tags(&self, repository: &Repository, cursor: Option<&Cursor>) -> Result<Page<Tag>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            /// `null` where the last tag has been deleted.
            tags: Option<Names<Tag>>,
        }
        let action = format!("GET tags of {repository}");
        let first = self.path(&format!("/v2/{repository}/tags/list"));
        let Some((response, at)) = self.page(&action, first, PAGE, cursor, Scope::Pull(repository.clone())).await? else {
            return Ok(Page::empty());
        };
        let next = at.next(self, &action, &response)?;
        let Answer { tags } = self.json(&action, response).await?;
        Ok(Page { items: self.items(&action, tags), next })
    }

    /// A page of the repositories in a namespace, in the registry's order. Names that are no repositories are left out.
    ///
    /// # Errors
    /// [`Error::Refused`] if the credentials may not list, or the pages lead in a circle or elsewhere; otherwise see [`Error`].
    pub async fn list_repositories(&self, namespace: &Namespace, cursor: Option<&Cursor>) -> Result<Page<Repository>, Error> {
        let is_catalog = cursor.is_some_and(|cursor| cursor.is_in(CATALOG));
        let page = if is_catalog { None } else { Box::pin(self.service_repositories(namespace, cursor)).await? };
        let mut page = match page {
            Some(page) => page,
            None => self.list_catalog(cursor).await?,
        };
        page.items.retain(|repository| repository.below(namespace).is_some());
        Ok(page)
    }

    async fn list_catalog(&self, cursor: Option<&Cursor>) -> Result<Page<Repository>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            repositories: Option<Names<Repository>>,
        }
        let action = "GET catalog";
        let Some((response, at)) = self.page(action, self.path(CATALOG), PAGE, cursor, Scope::Catalog).await? else {
            return Ok(Page::empty());
        };
        let next = at.next(self, action, &response)?;
        let Answer { repositories } = self.json(action, response).await?;
        Ok(Page { items: self.items(action, repositories), next })
    }

    /// Asks for a page; `None` if the list is not there.
    pub(super) async fn page(
        &self,
        action: &str,
        first: Url,
        size: usize,
        cursor: Option<&Cursor>,
        scope: Scope,
    ) -> Result<Option<(Response, At)>, Error> {
        let mut url = first.clone();
        let position = match cursor {
            None => {
                if url.query().is_none() {
                    url.set_query(Some(&format!("n={size}")));
                }
                None
            }
            Some(cursor) => {
                let position = cursor.position();
                let next = position.as_ref().and_then(|position| first.join(&position.target).ok());
                // A cursor comes back from a message or a table: it must still be one of this list.
                url = next
                    .filter(|next| next.path() == first.path() && self.is_own(next))
                    .ok_or_else(|| self.failure(action, "the position to go on from is not one of this list").refused())?;
                position
            }
        };
        let at = At { position, current: target_of(&url) };
        let response = self.send(&Call::get(action, url, scope).expecting(&[404]).of_work()).await?;
        Ok((response.status() != 404).then_some((response, at)))
    }

    /// The page that follows, as `Link` says: distribution specification, "Content Discovery". It is one of the same list.
    pub(super) fn next_page(&self, action: &str, response: &Response) -> Result<Option<Url>, Error> {
        let Some(link) = next_link(response) else { return Ok(None) };
        let here = response.url();
        let next = here.join(&link).ok().filter(|next| next.origin() == here.origin() && next.path() == here.path());
        next.map(Some).ok_or_else(|| {
            self.failure(action, "the Link to the next page leads elsewhere")
                .hint("a registry behind a proxy has to know its external URL")
                .refused()
        })
    }

    pub(super) async fn json<T: DeserializeOwned>(&self, action: &str, response: Response) -> Result<T, Error> {
        let body = self.read(action, response, MAX_PAGE).await?;
        serde_json::from_slice(&body).map_err(|error| match error.to_string() {
            problem if problem.starts_with(TOO_MANY) => self.failure(action, problem).refused(),
            _ => self.failure(action, "the answer is not what the API promises").refused(),
        })
    }

    pub(super) fn items<T>(&self, action: &str, names: Option<Names<T>>) -> Vec<T> {
        let Some(Names { valid, strange, .. }) = names else { return Vec::new() };
        if strange > 0 {
            tracing::warn!(registry = self.name(), action, left_out = strange, "names that no registry may have");
        }
        valid
    }
}

/// What is in a list and follows its grammar. One strange name must not stop a whole list.
pub(super) struct Names<T> {
    pub(super) valid: Vec<T>,
    /// How many do not, or are none at all. They are not kept: a page of `0,0,0,…` would take sixteen times its size.
    strange: usize,
    /// How many there were, whatever they are.
    pub(super) length: usize,
}

const TOO_MANY: &str = "more names in one page than any registry sends";

/// What can be in a list.
pub(super) trait Item: Sized {
    /// Reads an item, which may stand for several; `false` if it is none.
    fn read(item: &RawValue, found: &mut Vec<Self>) -> bool;
}

impl Item for Tag {
    fn read(item: &RawValue, found: &mut Vec<Self>) -> bool {
        read_name(item, found)
    }
}

impl Item for Repository {
    fn read(item: &RawValue, found: &mut Vec<Self>) -> bool {
        read_name(item, found)
    }
}

impl<'de, T: Item> Deserialize<'de> for Names<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T>(PhantomData<T>);

        impl<'de, T: Item> Visitor<'de> for List<T> {
            type Value = Names<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of names")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Names<T>, A::Error> {
                let mut names = Names { valid: Vec::new(), strange: 0, length: 0 };
                while let Some(item) = items.next_element::<&RawValue>()? {
                    names.length += 1;
                    names.strange += usize::from(!T::read(item, &mut names.valid));
                    if names.valid.len() > MAX_NAMES {
                        return Err(A::Error::custom(TOO_MANY));
                    }
                }
                Ok(names)
            }
        }

        deserializer.deserialize_seq(List(PhantomData))
    }
}

/// A name by itself, or in an object, as Harbor has it.
fn read_name<T: FromStr>(item: &RawValue, found: &mut Vec<T>) -> bool {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    let json = item.get();
    let name = match json.as_bytes().first() {
        Some(b'{') => serde_json::from_str::<Named>(json).ok().map(|named| named.name),
        _ => serde_json::from_str(json).ok(),
    };
    let name = name.and_then(|name| name.parse().ok());
    let is_one = name.is_some();
    found.extend(name);
    is_one
}

/// The page at hand.
pub(super) struct At {
    position: Option<Position>,
    current: String,
}

impl At {
    /// The beginning of a list that is no resource of HTTP, or where a cursor leads in it.
    pub(super) fn of(list: &str, cursor: Option<&Cursor>) -> Option<Self> {
        let Some(cursor) = cursor else { return Some(Self { position: None, current: list.into() }) };
        let position = cursor.position().filter(|_| cursor.is_in(list))?;
        Some(Self { current: position.target.clone(), position: Some(position) })
    }

    /// What is behind the question mark of such a position.
    pub(super) fn token(&self) -> Option<String> {
        Some(self.position.as_ref()?.target.split_once('?')?.1.to_owned())
    }

    /// Its number, from 1 on.
    pub(super) fn number(&self) -> u64 {
        self.position.as_ref().map_or(0, |position| position.page) + 1
    }

    pub(super) fn next(&self, registry: &Registry, action: &str, response: &Response) -> Result<Option<Cursor>, Error> {
        let next = registry.next_page(action, response)?;
        next.map(|url| self.followed_by(registry, action, target_of(&url))).transpose()
    }

    pub(super) fn followed_by(&self, registry: &Registry, action: &str, target: String) -> Result<Cursor, Error> {
        if target.len() > MAX_TARGET {
            let problem = format!("the Link to the next page has {} bytes, which is too long", target.len());
            return Err(registry.failure(action, problem).refused());
        }
        let position = Position::after(self.position.as_ref(), &self.current, target);
        let position = position.ok_or_else(|| registry.failure(action, "its pages lead in a circle").refused())?;
        if position.page > MAX_PAGES {
            return Err(registry.failure(action, format!("more than {MAX_PAGES} pages")).refused());
        }
        Ok(Cursor::new(&position))
    }
}

fn next_link(response: &Response) -> Option<String> {
    response.headers().get_all(LINK).iter().filter_map(|value| value.to_str().ok()).find_map(next_of)
}

fn target_of(url: &Url) -> String {
    url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()))
}

/// The URL with `rel="next"` of a `Link` header: RFC 8288.
fn next_of(header: &str) -> Option<String> {
    let mut rest = header;
    while let Some((_, link)) = rest.split_once('<') {
        let (url, parameters) = link.split_once('>')?;
        let parameters_end = parameters.find('<').unwrap_or(parameters.len());
        let is_next = parameters[..parameters_end].split([';', ',']).any(|parameter| {
            parameter.split_once('=').is_some_and(|(name, value)| {
                name.trim().eq_ignore_ascii_case("rel")
                    && value.trim().trim_matches('"').split_whitespace().any(|rel| rel.eq_ignore_ascii_case("next"))
            })
        });
        if is_next {
            return Some(url.into());
        }
        rest = &parameters[parameters_end..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_in_link() {
        assert_eq!(next_of(r#"</v2/a/tags/list?last=b&n=1>; rel="next""#).as_deref(), Some("/v2/a/tags/list?last=b&n=1"));
        assert_eq!(next_of("<https://x/y?z>; rel=next").as_deref(), Some("https://x/y?z"));
        assert_eq!(next_of(r#"</a>; rel="prev", </b,c>; title="x"; rel="next""#).as_deref(), Some("/b,c"));
        assert_eq!(next_of(r#"</a>; rel="prev""#), None);
        assert_eq!(next_of("nonsense"), None);
        assert_eq!(next_of("</a"), None);
    }

    #[test]
    fn names_are_taken_and_everything_else_is_counted() {
        let names = |json: &str| serde_json::from_str::<Names<Tag>>(json).map(|names| (names.valid.len(), names.strange));
        assert_eq!(names(r#"["v1", "v\u0032", {"name": "v3", "x": [1]}]"#).unwrap(), (3, 0));
        assert_eq!(
            names(r#"["../x", "", 1, -1, 1e9, null, true, [["v1"]], {"x": "v1"}, {"name": 1}, "v1"]"#).unwrap(),
            (1, 10)
        );
        assert_eq!(names(&format!(r#"["{}"]"#, "a".repeat(1 << 20))).unwrap(), (0, 1));
        assert_eq!(names(&format!("[{}0]", "0,".repeat(1 << 20))).unwrap(), (0, (1 << 20) + 1));
        assert!(names(r#"{"v1": 1}"#).is_err());
        let many = format!(r#"[{}"a"]"#, r#""a","#.repeat(MAX_NAMES));
        assert!(names(&many).unwrap_err().to_string().starts_with(TOO_MANY));
    }

    #[test]
    fn circles_of_any_length_are_found() {
        for (tail, circle) in [(0, 1), (0, 2), (1, 3), (5, 7), (20, 64)] {
            let target = |step: usize| {
                let at = if step < tail { step } else { tail + (step - tail) % circle };
                format!("/v2/a/tags/list?last={at}")
            };
            let mut position = None;
            let mut current = "/v2/a/tags/list?n=1000".to_owned();
            let found = (0..1000).position(|step| match Position::after(position.as_ref(), &current, target(step)) {
                Some(next) => {
                    // As it comes back from a message.
                    position = Cursor::new(&next).position();
                    assert_eq!(position.as_ref(), Some(&next));
                    current = next.target;
                    false
                }
                None => true,
            });
            assert!(found.is_some_and(|steps| steps <= 4 * (tail + circle) + 1), "{tail} {circle} {found:?}");
        }
    }
}
