//! Exchanges that wait for a thread of the plugin's own.

use std::collections::hash_map::Entry;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::abi;
use crate::phase::{RequestPhase, ResponsePhase};
use crate::setup::HostLink;
use crate::types::{Error, HostError, PauseToken, Verdict};

type ThenRequest = dyn FnOnce(&mut RequestPhase<'_>) -> Result<Verdict, Error> + Send;
type ThenResponse = dyn FnOnce(&mut ResponsePhase<'_>) -> Result<Verdict, Error> + Send;

/// What a resumed exchange goes on with, in the phase that was paused.
pub(crate) enum Continuation {
    Request(Box<ThenRequest>),
    Response(Box<ThenResponse>),
}

/// A pause in the request phase: [`RequestPhase::pause`].
pub type RequestPause = Pause<RequestPhase<'static>>;
/// A pause in the response phase: [`ResponsePhase::pause`].
pub type ResponsePause = Pause<ResponsePhase<'static>>;

/// An exchange that waits. It goes to the thread that does the slow work, which calls `resume` in the end; an exchange whose
/// pause is dropped without that has failed (502).
///
/// ```
/// # use mini_rproxy_plugin::{Error, Plugin, Pool, RequestPhase, Setup, Verdict};
/// # struct Ask { pool: Pool }
/// # fn look_up(name: &[u8]) -> bool { name == b"ann" }
/// # impl Plugin for Ask {
/// #     const NAME: &'static str = "ask";
/// #     fn create(setup: &Setup, _: &[u8]) -> Result<Self, Error> {
/// #         Ok(Ask { pool: Pool::new(setup, 1, 10)? })
/// #     }
/// fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
///     let name = x.field("x-name").unwrap_or_default().to_vec();
///     let pause = x.pause()?;
///     let verdict = pause.verdict();
///     let job = move || {
///         let is_known = look_up(&name); // takes its time, on another thread
///         pause.resume(move |x| match is_known {
///             true => Ok(Verdict::Continue),
///             false => Ok(x.respond(403, &[], "who is that?\n")?),
///         });
///     };
///     match self.pool.run(job) {
///         Ok(()) => Ok(verdict),
///         Err(_) => Ok(x.respond(503, &[("Retry-After", "1")], "busy\n")?),
///     }
/// }
/// # }
/// # use mini_rproxy_plugin::testing::{Exchange, Instance, Outcome};
/// let ask = Instance::<Ask>::new("").unwrap();
/// let mut x = Exchange::get("/").field("X-Name", "ann");
/// assert_eq!(x.request(&ask), Outcome::Pause);
/// assert_eq!(x.resumed(&ask), Outcome::Continue);
/// ```
#[must_use = "the exchange fails when its pause is dropped without a resume"]
pub struct Pause<P> {
    /// `None` once it was resumed.
    host: Option<Arc<HostLink>>,
    ticket: u64,
    _phase: PhantomData<fn(P)>,
}

impl<P> fmt::Debug for Pause<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pause").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

impl<P> Pause<P> {
    pub(crate) fn new(host: &Arc<HostLink>, x: *mut abi::Exchange) -> Result<Self, HostError> {
        let pause = host.table.pause.ok_or(HostError::Unsupported)?;
        let mut ticket = 0;
        // SAFETY: the caller has the exchange of the hook that is running, of the host that the link belongs to.
        HostError::check(unsafe { pause(x, &mut ticket) })?;
        Ok(Pause { host: Some(Arc::clone(host)), ticket, _phase: PhantomData })
    }

    pub(crate) fn ticket(&self) -> u64 {
        self.ticket
    }

    /// What the hook returns.
    pub fn verdict(&self) -> Verdict {
        Verdict::Pause(PauseToken(()))
    }

    fn resume_with(mut self, continuation: Continuation) -> bool {
        let Some(host) = self.host.take() else { return false };
        // There before the host is told: the exchange may go on at once.
        match host.continuations().entry(self.ticket) {
            // Its hook has paused twice: both have one ticket, and the first one counts.
            Entry::Occupied(_) => return false,
            Entry::Vacant(place) => {
                place.insert(continuation);
            }
        }
        let is_waiting = resume(&host, self.ticket, abi::CONTINUE);
        if !is_waiting {
            drop(host.take_continuation(self.ticket));
        }
        is_waiting
    }
}

impl Pause<RequestPhase<'static>> {
    /// Lets the exchange go on: `then` runs on its thread, and its verdict is that of the hook. From any thread, also before
    /// the hook has returned. `false` where nothing waits any more: the client has left, or `timeouts.plugin` is over.
    pub fn resume<F>(self, then: F) -> bool
    where
        F: FnOnce(&mut RequestPhase<'_>) -> Result<Verdict, Error> + Send + 'static,
    {
        self.resume_with(Continuation::Request(Box::new(then)))
    }
}

impl Pause<ResponsePhase<'static>> {
    /// Lets the exchange go on: `then` runs on its thread, and its verdict is that of the hook. From any thread, also before
    /// the hook has returned. `false` where nothing waits any more: the client has left, or `timeouts.plugin` is over.
    pub fn resume<F>(self, then: F) -> bool
    where
        F: FnOnce(&mut ResponsePhase<'_>) -> Result<Verdict, Error> + Send + 'static,
    {
        self.resume_with(Continuation::Response(Box::new(then)))
    }
}

impl<P> Drop for Pause<P> {
    fn drop(&mut self) {
        if let Some(host) = self.host.take() {
            resume(&host, self.ticket, abi::FAIL);
        }
    }
}

/// Ends a pause whose hook does not wait. What it was resumed with already is dropped; from here on nobody can resume it.
pub(crate) fn abandon(host: &HostLink, ticket: u64) {
    resume(host, ticket, abi::FAIL);
    drop(host.take_continuation(ticket));
}

/// Says whether the exchange was still waiting.
fn resume(host: &HostLink, ticket: u64, verdict: abi::Verdict) -> bool {
    // SAFETY: the host's function with its ctx; any thread may call it.
    host.table.resume.is_some_and(|resume| unsafe { resume(host.ctx, ticket, verdict) } == abi::OK)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Arc, Mutex};
    use std::thread;

    use super::*;
    use crate::testing::{Exchange, Instance, Outcome};
    use crate::{Level, Plugin, Setup};

    /// Hands its pauses to the test, or does with them at once what the request's `x-do` says.
    struct Waits {
        requests: Sender<RequestPause>,
        responses: Sender<ResponsePause>,
    }

    /// The other ends of the instance that was made last.
    static LAST: Mutex<Option<(Receiver<RequestPause>, Receiver<ResponsePause>)>> = Mutex::new(None);

    /// What the next continuation holds.
    static HELD: Mutex<Option<Arc<()>>> = Mutex::new(None);

    impl Plugin for Waits {
        const NAME: &'static str = "waits";

        fn create(_: &Setup, _: &[u8]) -> Result<Self, Error> {
            let ((requests, first), (responses, second)) = (channel(), channel());
            *LAST.lock().unwrap() = Some((first, second));
            Ok(Waits { requests, responses })
        }

        fn on_request(&self, x: &mut RequestPhase<'_>) -> Result<Verdict, Error> {
            let pause = x.pause()?;
            let verdict = pause.verdict();
            match x.field("x-do") {
                Some(b"drop") => {
                    drop(pause);
                    return Ok(verdict);
                }
                Some(b"go on") => {
                    drop(pause);
                    return Ok(Verdict::Continue);
                }
                Some(b"answer") => {
                    drop(pause);
                    return Ok(x.respond(429, &[], "")?);
                }
                Some(b"panic") => panic!("with a pause"),
                Some(b"resume and go on" | b"resume and fail") => {
                    let held = HELD.lock().unwrap().take();
                    assert!(pause.resume(move |_| panic!("{held:?}: nobody waits")));
                    return if x.field("x-do") == Some(b"resume and fail") {
                        Err(Error::new("no"))
                    } else {
                        Ok(Verdict::Continue)
                    };
                }
                Some(b"twice") => {
                    let other = x.pause()?;
                    assert!(pause.resume(|x| Ok(x.set_field("x-resumed", "1").map(|()| Verdict::Continue)?)));
                    assert!(!other.resume(|_| Err(Error::new("it was resumed before"))));
                    return Ok(verdict);
                }
                Some(b"at once") => {
                    assert!(pause.resume(|x| Ok(x.set_field("x-resumed", "1").map(|()| Verdict::Continue)?)));
                    return Ok(verdict);
                }
                _ => {}
            }
            self.requests.send(pause)?;
            Ok(verdict)
        }

        fn on_response(&self, x: &mut ResponsePhase<'_>) -> Result<Verdict, Error> {
            let pause = x.pause()?;
            let verdict = pause.verdict();
            self.responses.send(pause)?;
            Ok(verdict)
        }
    }

    /// A plugin, and the pauses that it makes.
    fn waits() -> (Instance<Waits>, Receiver<RequestPause>, Receiver<ResponsePause>) {
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap();
        let plugin = Instance::new("").unwrap();
        let (requests, responses) = LAST.lock().unwrap().take().unwrap();
        (plugin, requests, responses)
    }

    #[test]
    fn another_thread_lets_both_phases_go_on() {
        let (plugin, requests, responses) = waits();
        let mut x = Exchange::get("/");
        assert_eq!(x.request(&plugin), Outcome::Pause);
        let pause = requests.recv().unwrap();
        let thread = thread::spawn(move || {
            pause.resume(|x| {
                x.set_field("x-user", "ann")?;
                Ok(Verdict::Continue)
            })
        });
        assert_eq!(x.resumed(&plugin), Outcome::Continue);
        assert!(thread.join().unwrap());
        assert_eq!(x.request_field("x-user"), Some("ann"));

        x.upstream_answers(200, &[], "");
        assert_eq!(x.response(&plugin), Outcome::Pause);
        assert!(responses.recv().unwrap().resume(|x| {
            assert_eq!((x.status(), x.request().field("x-user")), (200, Some(b"ann".as_slice())));
            Ok(x.respond(503, &[], "later\n")?)
        }));
        assert_eq!(x.resumed(&plugin).status(), Some(503));
        assert_eq!((x.status(), x.response_body()), (503, b"later\n".as_slice()));
    }

    #[test]
    fn a_pause_may_end_before_its_hook_does() {
        let (plugin, ..) = waits();
        for how in ["at once", "twice"] {
            let mut x = Exchange::get("/").field("x-do", how);
            assert_eq!(x.request(&plugin), Outcome::Pause);
            assert_eq!(x.resumed(&plugin), Outcome::Continue, "{how}");
            assert_eq!(x.request_field("x-resumed"), Some("1"));
        }
    }

    #[test]
    fn a_pause_that_is_dropped_fails_the_exchange_unless_the_hook_has_another_verdict() {
        let (plugin, ..) = waits();
        let ask = |what: &str| {
            let mut x = Exchange::get("/").field("x-do", what);
            let outcome = x.request(&plugin);
            if outcome == Outcome::Pause { x.resumed(&plugin) } else { outcome }
        };
        assert_eq!(ask("drop"), Outcome::Fail);
        assert_eq!(ask("panic"), Outcome::Fail);
        assert_eq!(ask("go on"), Outcome::Continue);
        assert_eq!(ask("answer").status(), Some(429));
    }

    #[test]
    fn continuations_can_fail_panic_and_pause_again() {
        let (plugin, requests, _) = waits();
        let last_error = || plugin.log().into_iter().rfind(|(level, _)| *level == Level::Error).unwrap().1;
        let mut x = Exchange::get("/");
        assert_eq!(x.request(&plugin), Outcome::Pause);
        requests.recv().unwrap().resume(|_| Err(Error::new("no such user")));
        assert_eq!(x.resumed(&plugin), Outcome::Fail);
        assert_eq!(last_error(), "on_resume: no such user");

        assert_eq!(x.request(&plugin), Outcome::Pause);
        requests.recv().unwrap().resume(|_| panic!("in the continuation"));
        assert_eq!(x.resumed(&plugin), Outcome::Fail);
        assert_eq!(last_error(), "on_resume panicked: in the continuation");

        assert_eq!(x.request(&plugin), Outcome::Pause);
        requests.recv().unwrap().resume(|x| {
            let again = x.pause()?;
            let verdict = again.verdict();
            again.resume(|_| Ok(Verdict::Continue));
            Ok(verdict)
        });
        assert_eq!(x.resumed(&plugin), Outcome::Pause);
        assert_eq!(x.resumed(&plugin), Outcome::Continue);
    }

    #[test]
    fn what_an_exchange_would_have_gone_on_with_is_dropped_when_it_ends() {
        let (plugin, requests, _) = waits();
        let held = Arc::new(());
        for is_resumed_before in [true, false] {
            let mut x = Exchange::get("/");
            assert_eq!(x.request(&plugin), Outcome::Pause);
            let (pause, kept) = (requests.recv().unwrap(), Arc::clone(&held));
            let resume = move || {
                pause.resume(move |_| {
                    let _kept = kept;
                    panic!("the exchange is over")
                })
            };
            assert_eq!(Arc::strong_count(&held), 2);
            if is_resumed_before {
                assert!(resume());
                assert_eq!(Arc::strong_count(&held), 2, "it waits for the exchange");
                x.done(&plugin);
            } else {
                x.done(&plugin);
                assert!(!resume(), "nothing waits any more");
            }
            assert_eq!(Arc::strong_count(&held), 1);
        }
        let mut x = Exchange::get("/");
        assert_eq!(x.request(&plugin), Outcome::Pause);
        drop(x);
        assert!(!requests.recv().unwrap().resume(|_| Ok(Verdict::Continue)), "an exchange that is not even told");
    }

    #[test]
    fn what_a_hook_would_have_gone_on_with_is_dropped_when_it_does_not_wait() {
        let (plugin, ..) = waits();
        for (what, outcome) in [("resume and go on", Outcome::Continue), ("resume and fail", Outcome::Fail)] {
            let held = Arc::new(());
            *HELD.lock().unwrap() = Some(Arc::clone(&held));
            let mut x = Exchange::get("/").field("x-do", what);
            assert_eq!(x.request(&plugin), outcome, "{what}");
            assert_eq!(Arc::strong_count(&held), 1, "{what}");
        }
    }

    #[test]
    fn own_answers_do_not_wait() {
        let (plugin, ..) = waits();
        let mut x = Exchange::get("/");
        x.proxy_answers(502, "Bad Gateway\n");
        assert_eq!(x.response(&plugin), Outcome::Fail);
        let (_, error) = plugin.log().pop().unwrap();
        assert_eq!(error, "on_response: not in this phase");
    }
}
