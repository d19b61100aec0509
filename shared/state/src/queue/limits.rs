//! What no queue takes. These are the limits of SQS, and hold for every adapter: nobody should find them out in production.

use crate::{Outgoing, QueueError};

/// The greatest size of a message, in bytes.
pub(crate) const MAX_BODY: usize = 256 << 10;
const MAX_ID: usize = 128;

/// Checks a message for a FIFO queue, or for a standard one.
pub(crate) fn check(message: &Outgoing, fifo: bool) -> Result<(), QueueError> {
    let refused = |why: String| Err(QueueError::Invalid(why));
    if !(1..=MAX_BODY).contains(&message.body.len()) {
        return refused(format!("a body of {} bytes, where 1 to {MAX_BODY} are possible", message.body.len()));
    }
    if let Some(bad) =
        message.body.chars().find(|&c| matches!(c, '\0'..'\t' | '\u{b}' | '\u{c}' | '\u{e}'..' ' | '\u{fffe}' | '\u{ffff}'))
    {
        return refused(format!("a body with the character {bad:?}"));
    }
    for (what, id) in [("group", &message.group), ("de-duplication ID", &message.deduplication)] {
        match (fifo, id) {
            (true, Some(id)) if is_id(id) => {}
            (true, Some(id)) => {
                return refused(format!("the {what} {id:?} is not 1 to {MAX_ID} hexadecimal digits"));
            }
            (true, None) => return refused(format!("no {what}, which a FIFO queue needs")),
            (false, Some(_)) => return refused(format!("a {what}, which a standard queue does not have")),
            (false, None) => {}
        }
    }
    Ok(())
}

fn is_id(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}
