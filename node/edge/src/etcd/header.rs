//! The response header every etcd answer carries.

use henge_api::Header;

use super::proto::etcdserverpb as pb;

/// The engine's header in its wire form.
pub(crate) fn header(h: Header) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        cluster_id: h.cluster_id,
        member_id: h.member_id,
        revision: h.revision,
        raft_term: h.raft_term,
    })
}

/// For Cluster calls: etcd leaves the revision out of their headers.
pub(crate) fn without_revision(h: Header) -> Option<pb::ResponseHeader> {
    header(Header { revision: 0, ..h })
}
