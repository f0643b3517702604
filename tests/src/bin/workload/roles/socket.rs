//! `socket`: a client waits for a slow server through a stream socket. With `--timeouts` another thread waits for nobody, each time until a
//! timer of the kernel's wheel ends that, in the second half.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(Clone, Copy, clap::ValueEnum)]
enum Family {
    Unix,
    Inet,
}

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, value_enum, default_value = "unix")]
    family: Family,
    /// For how long the server computes before it answers.
    #[arg(long, value_parser = roles::duration, default_value = "5ms")]
    period: Duration,
    #[arg(long, value_parser = roles::duration, default_value = "1s")]
    duration: Duration,
    #[arg(long)]
    timeouts: bool,
    /// Both ends stay on the first CPU in the first half, and on the last one then.
    #[arg(long)]
    moves: bool,
}

/// Where an end is to be until when, and where then; nothing: anywhere.
#[derive(Clone, Default)]
struct Stays(Vec<(usize, Instant)>);

impl Stays {
    /// Moves the calling thread if its time here is over.
    fn keep(&mut self) {
        if let Some((cpu, _)) = self.0.pop_if(|(_, from)| Instant::now() >= *from) {
            sys::pin(cpu);
        }
    }
}

/// A jiffy or more, on every kernel.
const TIMEOUT: Duration = Duration::from_millis(4);

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

fn pair(family: Family) -> std::io::Result<(Box<dyn Stream>, Box<dyn Stream>)> {
    Ok(match family {
        Family::Unix => {
            let (near, far) = UnixStream::pair()?;
            (Box::new(near), Box::new(far))
        }
        Family::Inet => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let near = TcpStream::connect(listener.local_addr()?)?;
            let (far, _) = listener.accept()?;
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            (Box::new(near), Box::new(far))
        }
    })
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let (mut near, mut far) = pair(self.family).context("cannot make a pair of connected sockets")?;
        let (period, end) = (self.period, Instant::now() + self.duration);
        let mut stays = Stays::default();
        if let (true, [first, .., last]) = (self.moves, &sys::allowed_cpus()[..]) {
            // The next one is the last.
            stays.0 = vec![(*last, Instant::now() + self.duration / 2), (*first, Instant::now())];
        }
        let mut server_stays = stays.clone();
        let server = run.spawn("server", move |_| {
            let mut byte = [0];
            while far.read_exact(&mut byte).is_ok() {
                server_stays.keep();
                sys::compute(period);
                if far.write_all(&byte).is_err() {
                    break;
                }
            }
        })?;
        let client = run.spawn("client", move |truth| {
            let (mut waited, mut answers, mut byte) = (sys::Waited::default(), 0_u64, [1]);
            while Instant::now() < end {
                stays.keep();
                if near.write_all(&byte).is_err() {
                    break;
                }
                if waited.in_call(|| near.read_exact(&mut byte)).is_err() {
                    break;
                }
                answers += 1;
            }
            truth.set("waited_s", waited.seconds());
            truth.set("answers", answers);
        })?;
        let mut workers = vec![server, client];
        if self.timeouts {
            let (mut silent, other) = UnixStream::pair().context("cannot make a pair of sockets")?;
            silent.set_read_timeout(Some(TIMEOUT)).context("cannot set a timeout")?;
            let half = self.duration / 2;
            workers.push(run.spawn("timeouts", move |_| {
                std::thread::sleep(half);
                while Instant::now() < end {
                    // An error: nobody sends.
                    let _ = silent.read(&mut [0]);
                }
                drop(other);
            })?);
        }
        run.ready(&workers);
        run.join(workers)
    }
}
