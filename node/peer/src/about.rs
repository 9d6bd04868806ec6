//! What members tell of themselves when they meet: where their clients reach them.
//!
//! It follows the hello, in the same frame: builds that do not know it leave it alone, and one that
//! does not send it is unknown in this respect until it does. Nothing here can fail a handshake: what
//! cannot be read is not there. Must never know: sockets, what a URL means.
//!
//! Sections of kind, length and bytes, so that more can follow; a list of URLs is each one's length
//! and bytes. Drawn in docs/format.md.

use bytes::{Buf, BufMut};

use super::frame::{CONTROL_BYTES_MAX, Frame, Kind};
use super::handshake::HELLO_BYTES;

/// The section of client URLs.
const CLIENT_URLS: u16 = 1;
/// Kind and length of a section.
const SECTION_BYTES: usize = 4;
/// A member has a few; a stranger may claim any number.
const URLS_MAX: usize = 32;

/// `hello` with `client_urls` behind it: as many as a frame of a handshake holds.
pub(super) fn tell(hello: Frame, client_urls: &[String]) -> Frame {
    if hello.kind != Kind::Hello || client_urls.is_empty() {
        return hello;
    }
    let room = CONTROL_BYTES_MAX - HELLO_BYTES - SECTION_BYTES;
    let mut list = Vec::new();
    for url in client_urls.iter().take(URLS_MAX) {
        let Ok(bytes) = u16::try_from(url.len()) else {
            continue;
        };
        if list.len() + 2 + url.len() <= room {
            list.put_u16_le(bytes);
            list.put_slice(url.as_bytes());
        }
    }
    let mut payload = hello.payload.to_vec();
    payload.put_u16_le(CLIENT_URLS);
    // It fits a frame, which is far shorter.
    payload.put_u16_le(u16::try_from(list.len()).unwrap_or(u16::MAX));
    payload.extend_from_slice(&list);
    Frame {
        kind: Kind::Hello,
        payload: payload.into(),
    }
}

/// The client URLs behind a hello; None if it has none, or none that can be read.
pub(super) fn client_urls(hello: &Frame) -> Option<Vec<String>> {
    let mut rest = hello.payload.get(HELLO_BYTES..)?;
    while rest.len() >= SECTION_BYTES {
        let (kind, bytes) = (rest.get_u16_le(), usize::from(rest.get_u16_le()));
        let section = rest.get(..bytes)?;
        if kind == CLIENT_URLS {
            return urls(section);
        }
        rest.advance(bytes);
    }
    None
}

fn urls(mut list: &[u8]) -> Option<Vec<String>> {
    let mut urls = Vec::new();
    while !list.is_empty() && urls.len() < URLS_MAX {
        let bytes = usize::from(list.try_get_u16_le().ok()?);
        let url = std::str::from_utf8(list.get(..bytes)?).ok()?;
        // It goes to clients and into logs.
        if url.is_empty() || url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return None;
        }
        urls.push(url.to_owned());
        list.advance(bytes);
    }
    (!urls.is_empty()).then_some(urls)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::handshake::{Dial, FORMATS, Local, Purpose, accept};

    fn hello(node_id: u64, to: u64) -> Frame {
        let local = Local {
            cluster_id: 1,
            node_id,
            boot: 7,
            formats: FORMATS,
        };
        Dial::start(local, to, Purpose::Session).1
    }

    #[test]
    fn what_is_told_is_heard_and_the_hello_is_as_before() {
        let urls = vec!["http://a:1".to_owned(), "http://[::1]:2".to_owned()];
        let told = tell(hello(1, 2), &urls);
        assert_eq!(client_urls(&told), Some(urls));
        let local = Local {
            cluster_id: 1,
            node_id: 2,
            boot: 8,
            formats: FORMATS,
        };
        assert!(accept(local, |_| true, &told).is_ok());
        assert_eq!(client_urls(&hello(1, 2)), None, "from a build without it");
        assert_eq!(tell(hello(1, 2), &[]), hello(1, 2));
    }

    #[test]
    fn more_than_a_frame_holds_is_left_out() {
        let urls: Vec<String> = (0..40)
            .map(|n| format!("http://{}:{n}", "h".repeat(60)))
            .collect();
        let told = tell(hello(1, 2), &urls);
        assert!(told.payload.len() <= CONTROL_BYTES_MAX);
        let heard = client_urls(&told).expect("some");
        assert!(heard.len() > 5 && urls.starts_with(&heard));
    }

    #[test]
    fn an_unknown_section_is_passed_over() {
        let told = tell(hello(1, 2), &["http://a:1".to_owned()]);
        let (head, tail) = told.payload.split_at(HELLO_BYTES);
        let payload = Bytes::from([head, &[9, 0, 2, 0, 1, 1], tail].concat());
        let frame = Frame {
            kind: Kind::Hello,
            payload,
        };
        assert_eq!(client_urls(&frame), Some(vec!["http://a:1".to_owned()]));
    }

    proptest! {
        #[test]
        fn garbage_behind_a_hello_is_nothing(tail in prop::collection::vec(any::<u8>(), 0..200)) {
            let payload = [&hello(1, 2).payload[..], &tail].concat().into();
            if let Some(urls) = client_urls(&Frame { kind: Kind::Hello, payload }) {
                prop_assert!(urls.iter().all(|url| !url.is_empty()));
            }
        }
    }
}
