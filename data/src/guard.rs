//! Panics of other people's decoders become errors: no file may end a process, whatever library reads it.
//!
//! The panic's message is not printed, for the error says it. So the first call puts a panic hook before that of the program,
//! which passes on every panic but those of a guarded call. (Where panics abort, nothing can be caught.)

use std::{
    any::Any,
    cell::Cell,
    panic::{self, AssertUnwindSafe},
    sync::Once,
    thread,
};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// What `decode` returns, or the message it panicked with. What it works on is to be dropped after a panic, or must be in
/// order all the same.
pub(crate) fn guarded<T>(decode: impl FnOnce() -> T) -> Result<T, String> {
    quieten();
    let outer = GUARDED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(decode));
    GUARDED.set(outer);
    result.map_err(|payload| format!("the decoder gave up: {}", message(&*payload)))
}

fn quieten() {
    static HOOK: Once = Once::new();
    // A hook cannot be changed while a destructor runs for a panic.
    if HOOK.is_completed() || thread::panicking() {
        return;
    }
    HOOK.call_once(|| {
        let former = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.try_with(Cell::get).unwrap_or(false) {
                former(info);
            }
        }));
    });
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let owned = || payload.downcast_ref::<String>().map(String::as_str);
    payload.downcast_ref::<&str>().copied().or_else(owned).unwrap_or("for no reason that it told")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        assert_eq!(guarded(|| 3), Ok(3));
        assert_eq!(guarded::<()>(|| panic!("no")), Err("the decoder gave up: no".into()));
        assert_eq!(guarded::<()>(|| panic!("{} of {}", 1, 2)), Err("the decoder gave up: 1 of 2".into()));
        let odd = guarded::<()>(|| panic::panic_any(7)).unwrap_err();
        assert_eq!(odd, "the decoder gave up: for no reason that it told");
        let index = [1usize].len();
        assert!(guarded(|| [0; 1][index]).unwrap_err().contains("index out of bounds"));
    }

    /// The hook is one for the process, so this counts on a thread with a name that no other test has.
    #[test]
    fn only_guarded_panics_are_quiet() {
        const NAME: &str = "counted";
        let seen = Arc::new(AtomicUsize::new(0));
        let _ = guarded(|| ());
        let (counter, former) = (seen.clone(), panic::take_hook());
        panic::set_hook(Box::new(move |info| {
            let counted = thread::current().name() == Some(NAME);
            if counted && !GUARDED.get() {
                counter.fetch_add(1, Ordering::Relaxed);
            } else if !counted {
                former(info);
            }
        }));
        let work = || {
            assert!(guarded(|| guarded::<()>(|| panic!("inner")).unwrap_err()).is_ok());
            assert!(guarded::<()>(|| panic!("outer")).is_err());
            assert!(!GUARDED.get());
            panic!("not guarded");
        };
        let thread = thread::Builder::new().name(NAME.into()).spawn(work).unwrap();
        assert!(thread.join().is_err());
        assert_eq!(seen.load(Ordering::Relaxed), 1);
    }
}
