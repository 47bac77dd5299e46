//! What a script of hooks is asked for a request, and what it answers, on their way between threads.

use std::ffi::c_void;

use burrow_abi::{burrow_hook, burrow_question, burrow_request, burrow_str, burrow_verdict};

use crate::embedded::App;
use crate::hooks;

/// A question of nginx's own, copied.
pub struct Question {
    hook: burrow_hook,
    arguments: [Option<Box<[u8]>>; 2],
    place: Box<[u8]>,
}

impl Question {
    /// # Safety
    /// `question` points at what it says.
    pub unsafe fn new(question: &burrow_question) -> Self {
        // SAFETY: the caller vouches for the strings.
        let copy = |text: burrow_str| (!text.is_absent()).then(|| unsafe { text.bytes() }.into());
        Question {
            hook: question.hook,
            arguments: question.arguments.map(copy),
            place: copy(question.place).unwrap_or_default(),
        }
    }

    /// Asks on the calling thread.
    ///
    /// # Safety
    /// As [`hooks::ask`].
    pub unsafe fn ask(
        &self,
        script: &App,
        request: &burrow_request,
        exchange: *mut c_void,
    ) -> (burrow_verdict, Box<[u8]>) {
        let mut text = Vec::new();
        let borrowed = |text: &Option<Box<[u8]>>| text.as_deref().map_or(burrow_str::NONE, burrow_str::new);
        let question = burrow_question {
            hook: self.hook,
            arguments: [borrowed(&self.arguments[0]), borrowed(&self.arguments[1])],
            place: burrow_str::new(&self.place),
            text: Some(append),
            to: (&raw mut text).cast(),
        };
        // SAFETY: the question's strings and `text` outlive the call; the caller vouches for the rest.
        let verdict = unsafe { hooks::ask(script, &question, request, exchange) };
        (verdict, text.into())
    }
}

unsafe extern "C" fn append(to: *mut c_void, text: burrow_str) {
    // SAFETY: `ask` passes its vector; the text lives as long as the call.
    unsafe { (*to.cast::<Vec<u8>>()).extend_from_slice(text.bytes()) }
}
