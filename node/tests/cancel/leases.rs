//! Operations on leases, in one shard.

use henge::mvcc::PutRequest;

use crate::case::{Case, boxed, grant, has_lease, is_gone, key, lease, nothing};

pub const CASES: &[Case] = &[
    Case {
        of: "Engine",
        name: "lease_grant",
        revisions: 0,
        before: nothing,
        operation: grant,
        after: has_lease,
    },
    Case {
        of: "Engine",
        name: "lease_keep_alive",
        revisions: 0,
        before: |db, k| Some(grant(db, k)),
        operation: |db, k| boxed(db.lease_keep_alive(lease(k))),
        after: has_lease,
    },
    Case {
        of: "Engine",
        name: "lease_time_to_live",
        revisions: 0,
        before: |db, k| Some(grant(db, k)),
        operation: |db, k| boxed(db.lease_time_to_live(lease(k), true)),
        after: has_lease,
    },
    Case {
        of: "Engine",
        name: "lease_revoke",
        // The key goes with its lease.
        revisions: 1,
        before: |db, k| {
            let db = db.clone();
            Some(Box::pin(async move {
                grant(&db, k).await?;
                let key = key(k);
                let put = PutRequest {
                    key: key.as_bytes(),
                    value: b"leased",
                    lease: lease(k),
                    ..PutRequest::default()
                };
                let put = db.put_with(&put);
                put.await?;
                Ok(())
            }))
        },
        operation: |db, k| boxed(db.lease_revoke(lease(k))),
        after: is_gone,
    },
];
