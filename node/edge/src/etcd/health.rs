//! The standard gRPC health service. Like etcd, it knows one service, the empty name, and that one
//! is serving for as long as the process accepts calls.

use tonic::{Request, Response, Status};

use super::proto::health as pb;
use super::streams::{Answers, Draining, drained, unfold};
use pb::health_check_response::ServingStatus;

/// The health service.
#[derive(Debug)]
pub struct Health {
    draining: Draining,
}

impl Health {
    /// A service that serves until `draining` says otherwise.
    pub(crate) fn new(draining: Draining) -> Health {
        Health { draining }
    }
}

fn serving(is: bool) -> pb::HealthCheckResponse {
    let status = if is {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    pb::HealthCheckResponse {
        status: status as i32,
    }
}

#[tonic::async_trait]
impl pb::health_server::Health for Health {
    async fn check(
        &self,
        request: Request<pb::HealthCheckRequest>,
    ) -> Result<Response<pb::HealthCheckResponse>, Status> {
        if !request.get_ref().service.is_empty() {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(serving(!*self.draining.borrow())))
    }

    type WatchStream = Answers<pb::HealthCheckResponse>;

    async fn watch(
        &self,
        request: Request<pb::HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        // The protocol wants an unknown service to be answered on the stream and to stay open.
        let first = if request.get_ref().service.is_empty() {
            serving(true)
        } else {
            pb::HealthCheckResponse {
                status: ServingStatus::ServiceUnknown as i32,
            }
        };
        let state = (Some(first), self.draining.clone());
        Ok(Response::new(unfold(
            state,
            |(mut first, mut draining)| async move {
                if let Some(first) = first.take() {
                    return Some((Ok(first), (None, draining)));
                }
                let end = drained(&mut draining).await;
                Some((Err(end), (None, draining)))
            },
        )))
    }
}
