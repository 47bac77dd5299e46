//! What becomes of a request whose exchange with a worker ended before its answer was whole.

use burrow_abi::{burrow_outcome, BURROW_ABORTED, BURROW_DIED, BURROW_TIMEOUT, BURROW_UNAVAILABLE};

/// How often a request is sent at most: of connections that end unread there is at most one for each idle
/// connection of a worker that has died, but a group must not keep a request going round.
const MOST_ATTEMPTS: u32 = 16;

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The connection did.
    Closed,
    /// The worker said what it may not say.
    Malformed,
    /// Nothing came for as long as a worker may be silent.
    Silence,
    /// The time for which it may wait for a thread is over.
    Queue,
}

/// How far the request had come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// A thread had taken it, or the worker had sent something for it.
    pub is_taken: bool,
    /// The client has got the answer's head.
    pub head_sent: bool,
    /// What was read of its body is still there.
    pub can_repeat: bool,
    /// How often it has been sent.
    pub attempts: u32,
    /// The time for which it may wait for a thread is over.
    pub is_overdue: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send it again on another connection.
    Repeat,
    Answer(burrow_outcome),
}

/// A request that no thread has taken is sent again, whatever its method: nobody has acted on it. One that has
/// been taken never is.
pub fn after(cause: Cause, progress: Progress) -> Next {
    let outcome = match cause {
        _ if progress.head_sent => BURROW_ABORTED,
        Cause::Queue | Cause::Silence => BURROW_TIMEOUT,
        Cause::Malformed => BURROW_DIED,
        Cause::Closed if progress.is_taken => BURROW_DIED,
        // A worker closes what it finds too late.
        Cause::Closed if progress.is_overdue => BURROW_TIMEOUT,
        Cause::Closed if !progress.can_repeat => BURROW_DIED,
        Cause::Closed if progress.attempts >= MOST_ATTEMPTS => BURROW_UNAVAILABLE,
        Cause::Closed => return Next::Repeat,
    };
    Next::Answer(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNREAD: Progress =
        Progress { is_taken: false, head_sent: false, can_repeat: true, attempts: 1, is_overdue: false };

    #[test]
    fn only_what_was_not_taken_is_sent_again() {
        assert_eq!(after(Cause::Closed, UNREAD), Next::Repeat);
        let taken = Progress { is_taken: true, ..UNREAD };
        assert_eq!(after(Cause::Closed, taken), Next::Answer(BURROW_DIED));
        let half_a_body = Progress { can_repeat: false, ..UNREAD };
        assert_eq!(after(Cause::Closed, half_a_body), Next::Answer(BURROW_DIED));
        assert_eq!(after(Cause::Malformed, UNREAD), Next::Answer(BURROW_DIED));
    }

    #[test]
    fn not_for_ever() {
        let often = Progress { attempts: MOST_ATTEMPTS, ..UNREAD };
        assert_eq!(after(Cause::Closed, often), Next::Answer(BURROW_UNAVAILABLE));
        let late = Progress { is_overdue: true, ..UNREAD };
        assert_eq!(after(Cause::Closed, late), Next::Answer(BURROW_TIMEOUT));
    }

    #[test]
    fn time_limits() {
        assert_eq!(after(Cause::Queue, UNREAD), Next::Answer(BURROW_TIMEOUT));
        let taken = Progress { is_taken: true, ..UNREAD };
        assert_eq!(after(Cause::Silence, taken), Next::Answer(BURROW_TIMEOUT));
    }

    #[test]
    fn an_answer_that_has_begun_is_cut() {
        let begun = Progress { is_taken: true, head_sent: true, ..UNREAD };
        for cause in [Cause::Closed, Cause::Malformed, Cause::Silence, Cause::Queue] {
            assert_eq!(after(cause, begun), Next::Answer(BURROW_ABORTED));
        }
    }
}
