//! Some of a task's resources.

use transship_model::{Resource, TaskId};

use super::{Listing, TaskLog};
use crate::StateError;

/// So many resources are looked at for one page: where few of them are wanted, a page may hold fewer than it could.
const MAX_EXAMINED: usize = 2000;
/// So many are read at a time.
const PAGE: usize = 500;

impl TaskLog {
    /// A page of those of a task's resources that are wanted, in the order of their names at the source. A page may hold fewer than `limit`,
    /// even none, before the end.
    ///
    /// # Errors
    /// See [`StateError`].
    pub async fn resources_where(
        &self,
        id: &TaskId,
        mut after: Option<String>,
        limit: usize,
        is_wanted: impl Fn(&Resource) -> bool,
    ) -> Result<Listing<Resource>, StateError> {
        let (mut items, mut examined) = (Vec::new(), 0);
        loop {
            let page = self.resources(id, after, PAGE).await?;
            examined += page.items.len();
            let mut rest = page.items.into_iter().peekable();
            while let Some(resource) = rest.next() {
                if !is_wanted(&resource) {
                    continue;
                }
                let name = resource.route.source.name();
                items.push(resource);
                if items.len() == limit {
                    let is_more = rest.peek().is_some() || page.next.is_some();
                    return Ok(Listing { items, next: is_more.then_some(name) });
                }
            }
            after = page.next;
            if after.is_none() || examined >= MAX_EXAMINED {
                return Ok(Listing { items, next: after });
            }
        }
    }
}
