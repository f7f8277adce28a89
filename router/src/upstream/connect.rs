//! A new connection to an instance, and what it means that there is none.

use std::io;

use control_types::Upstream;
use rustix::io::Errno;
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::transport::Transport;
use crate::limits::CONNECT_TIMEOUT;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody takes connections there now: the instance is between two lives, its socket is not there
    /// yet, or its machine is gone and the site will be elsewhere soon.
    #[error("{0} cannot be reached now")]
    Unreachable(Upstream, #[source] io::Error),
    /// It failed again and again a moment ago.
    #[error("{0} could not be reached a moment ago")]
    Failing(Upstream),
    /// All connections are in use.
    #[error("all connections to {0} are in use")]
    Busy(Upstream),
    /// What waiting does not mend.
    #[error("cannot connect to {0}")]
    Failed(Upstream, #[source] io::Error),
}

/// Connects to the instance at `address`.
///
/// # Errors
/// When it cannot, or not in time.
pub(super) async fn connect(address: &Upstream) -> Result<Transport, ConnectError> {
    let connecting = async {
        Ok(match address {
            Upstream::Unix(path) => Transport::Unix(UnixStream::connect(path).await?),
            Upstream::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Transport::Tcp(stream)
            }
        })
    };
    let connected = timeout(CONNECT_TIMEOUT, connecting).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| {
        if may_pass(&error) {
            ConnectError::Unreachable(address.clone(), error)
        } else {
            ConnectError::Failed(address.clone(), error)
        }
    })
}

/// Whether the same attempt may succeed later. Otherwise it is the address that is wrong, or this
/// process that may not or has too little of something.
fn may_pass(error: &io::Error) -> bool {
    match error.kind() {
        // `WouldBlock`: the queue of a unix socket is full.
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::NotFound
        | io::ErrorKind::WouldBlock
        | io::ErrorKind::TimedOut
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown => true,
        // What routers on the way say of a machine; the standard library has no names for it.
        _ => matches!(Errno::from_io_error(error), Some(Errno::HOSTDOWN | Errno::NONET)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_may_come_back_and_a_bad_address_does_not_get_better() {
        for passing in [
            Errno::CONNREFUSED,
            Errno::NOENT,
            Errno::AGAIN,
            Errno::TIMEDOUT,
            Errno::CONNRESET,
            Errno::CONNABORTED,
            Errno::HOSTUNREACH,
            Errno::HOSTDOWN,
            Errno::NETUNREACH,
            Errno::NETDOWN,
            Errno::NONET,
        ] {
            assert!(may_pass(&passing.into()), "{passing:?}");
        }
        assert!(may_pass(&io::ErrorKind::TimedOut.into()), "our own patience");
        for lasting in [
            Errno::ACCESS,
            Errno::PERM,
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::INVAL,
            Errno::AFNOSUPPORT,
            Errno::ADDRNOTAVAIL,
            Errno::NOTSOCK,
            Errno::NOTDIR,
        ] {
            assert!(!may_pass(&lasting.into()), "{lasting:?}");
        }
    }

    #[tokio::test]
    async fn a_path_without_a_socket_is_waited_for_and_one_that_cannot_be_is_not() {
        let outcome = |path: String| async move { connect(&Upstream::Unix(path.into())).await };
        let missing = outcome("/nowhere/at-all.sock".to_owned()).await;
        assert!(matches!(missing, Err(ConnectError::Unreachable(..))), "{missing:?}");
        let too_long = outcome(format!("/{}", "x".repeat(200))).await;
        assert!(matches!(too_long, Err(ConnectError::Failed(..))), "{too_long:?}");
    }
}
