//! Work on files whose file system may never answer: one of a network, or one that a process serves. Whoever asks such a one waits with
//! all others and cannot be interrupted. So the work is done by a thread of its own, which is left behind once patience ends, and from
//! then on nothing is asked of that file system any more. Which file systems these are is decided elsewhere.
//!
//! A thread that is left behind ends with the answer or with this process. Bounded: one thread for each file system.

use std::sync::mpsc;
use std::time::Duration;

use crate::model::objects::FileSystem;

/// A file system on the other side of the world answers several times in this.
const PATIENCE: Duration = Duration::from_secs(2);

/// Which file systems have not answered.
#[derive(Debug, Default)]
pub struct Patience {
    silent: Vec<FileSystem>,
}

impl Patience {
    /// Does the work on a file, or says why there is no result. `far` is the file system if others answer for its files; with none the caller
    /// does it.
    pub fn on<T: Send + 'static>(
        &mut self,
        far: Option<&FileSystem>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        match far {
            Some(system) => self.within(PATIENCE, system, work),
            None => Ok(work()),
        }
    }

    /// By a thread, which is waited for as long.
    pub fn within<T: Send + 'static>(
        &mut self,
        limit: Duration,
        system: &FileSystem,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        if self.silent.contains(system) {
            return Err(silent());
        }
        let (answer, answered) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("patience".to_owned());
        // Nobody may be there any more to hear it.
        let started = thread.spawn(move || drop(answer.send(work())));
        if let Err(error) = started {
            return Err(format!("no thread can be had to read it: {error}"));
        }
        match answered.recv_timeout(limit) {
            Ok(result) => Ok(result),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err("reading it went wrong".to_owned()),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                self.silent.push(system.clone());
                let source = system.source.as_ref().map(|source| format!(" from {source}")).unwrap_or_default();
                tracing::warn!(
                    "{} ({}{source}) does not answer: functions of files there have no names; see that its server is well",
                    system.mounted_on,
                    system.kind
                );
                Err(silent())
            }
        }
    }
}

fn silent() -> String {
    "its file system does not answer".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far(source: &str) -> FileSystem {
        FileSystem { kind: "nfs4".to_owned(), source: Some(source.to_owned()), mounted_on: "/mnt/data".to_owned() }
    }

    #[test]
    fn work_on_a_disk_is_done_by_the_caller_and_other_work_by_another_thread() {
        let mut patience = Patience::default();
        let caller = std::thread::current().id();
        let who = || std::thread::current().id();
        assert_eq!(patience.on(None, who), Ok(caller));
        assert_ne!(patience.on(Some(&far("a")), who), Ok(caller));
        assert_eq!(patience.on(Some(&far("a")), || 7), Ok(7));
    }

    #[test]
    fn a_file_system_that_does_not_answer_is_asked_once_and_others_go_on() {
        let mut patience = Patience::default();
        let (_never, wait) = mpsc::channel::<()>();
        let short = Duration::from_millis(20);
        let hung = patience.within(short, &far("a"), move || wait.recv().is_ok());
        assert_eq!(hung, Err(silent()), "the work goes on");
        let again = patience.within(short, &far("a"), || true);
        assert_eq!(again, Err(silent()));
        assert_eq!(patience.within(Duration::from_secs(60), &far("b"), || 7), Ok(7), "another one");
    }
}
