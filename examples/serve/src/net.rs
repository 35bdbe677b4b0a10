//! Connections: how many, how long to wait for their headers, and how they end.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Limits of connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Connections at once; others wait to be accepted.
    pub connections: usize,
    /// Time for a client to send the head of a request.
    pub head_time: Duration,
    /// Time for open answers to end after the server is told to stop.
    pub grace: Duration,
}

/// Serves `router` until `stop` is ready, then takes no new connection, lets open answers end, calls `abort` when they have
/// not after [`ConnectionLimits::grace`], and gives them a second more. Returns whether all ended in time.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    stop: impl Future<Output = ()>,
    abort: impl FnOnce(),
) -> bool {
    let places = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(limits.head_time);
    let mut stop = pin!(stop);
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = &mut stop => break,
        };
        let (Ok(place), Ok((stream, _))) = (place, accepted) else {
            // Out of file descriptors, most likely: some will come back.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Tokens are small and wanted at once; without this they only come later.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let connection = graceful.watch(server.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // A client that goes away is an error here and nobody else's business.
            let _ended: Result<(), hyper::Error> = connection.await;
            drop(place);
        });
    }
    drop(listener);
    let mut ended = pin!(graceful.shutdown());
    if tokio::time::timeout(limits.grace, &mut ended).await.is_ok() {
        return true;
    }
    abort();
    tokio::time::timeout(Duration::from_secs(1), ended).await.is_ok()
}
