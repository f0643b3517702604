//! `network`: a client asks a server on this host for answers over TCP, one after the other. The server, a process of its own, takes its time
//! for each; healthy: none.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    /// Where the server listens.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// For how long the server sleeps before each answer.
    #[arg(long, value_parser = roles::duration, default_value = "50ms")]
    period: Duration,
    #[arg(long, default_value_t = 30)]
    answers: u64,
    /// Length of an answer; a question has 10 bytes.
    #[arg(long, default_value_t = 1000)]
    len: usize,
    /// Makes a new connection for each answer, with the descriptor of the last one.
    #[arg(long)]
    reconnect: bool,
    /// Connections that are open all the time without a word.
    #[arg(long, default_value_t = 0)]
    idle: u32,
    /// For how long the client computes with each answer.
    #[arg(long, value_parser = roles::duration, default_value = "0ms")]
    compute: Duration,
    /// The client waits for its answers in epoll, for this connection or a pipe into which nobody writes.
    #[arg(long)]
    epoll: bool,
    /// The server answers at once.
    #[arg(long)]
    healthy: bool,
}

const QUESTION_BYTES: usize = 10;

/// Where the server makes an answer.
#[inline(never)]
fn slow_answer(period: Duration, answer: &[u8], stream: &mut TcpStream) -> std::io::Result<()> {
    if !period.is_zero() {
        std::thread::sleep(period);
    }
    stream.write_all(answer)
}

#[inline(never)]
fn ask(stream: &mut TcpStream, answer: &mut [u8], epoll: Option<&OwnedFd>) -> std::io::Result<()> {
    stream.write_all(&[1; QUESTION_BYTES])?;
    if let Some(epoll) = epoll {
        sys::epoll_wait(epoll.as_fd());
    }
    stream.read_exact(answer)
}

/// Serves one connection after the other, until one says nothing but ends.
fn serve(listener: &TcpListener, period: Duration, len: usize) -> std::io::Result<()> {
    let (answer, mut idle) = (vec![7; len], Vec::new());
    loop {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut question = [0; QUESTION_BYTES];
        let mut kind = [0];
        stream.read_exact(&mut kind)?;
        match kind {
            [b'i'] => idle.push(stream),
            [b'e'] => return Ok(()),
            _ => {
                while stream.read_exact(&mut question).is_ok() {
                    slow_answer(period, &answer, &mut stream)?;
                }
            }
        }
    }
}

fn connect(listener: &TcpListener, kind: u8) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(listener.local_addr()?)?;
    stream.set_nodelay(true)?;
    stream.write_all(&[kind])?;
    Ok(stream)
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let listener = TcpListener::bind((self.host.as_str(), 0)).context("cannot listen")?;
        let period = if self.healthy { Duration::ZERO } else { self.period };
        let child = sys::fork(|| i32::from(serve(&listener, period, self.len).is_err()))?;
        run.set("server", child);
        run.set("address", listener.local_addr()?.to_string());
        run.ready(&[]);
        let idle = (0..self.idle).map(|_| connect(&listener, b'i')).collect::<std::io::Result<Vec<_>>>()?;
        let (started, mut waited) = (Instant::now(), Duration::ZERO);
        let mut answer = vec![0; self.len];
        let mut stream = connect(&listener, b'a')?;
        let (silent, _silent) = sys::pipe().context("cannot make a pipe")?;
        let epoll = sys::epoll_of(&[silent.as_fd(), stream.as_fd()]).context("cannot make an epoll descriptor")?;
        let epoll = Some(epoll).filter(|_| self.epoll && !self.reconnect);
        for number in 0..self.answers {
            if self.reconnect && number > 0 {
                drop(stream);
                stream = connect(&listener, b'a')?;
            }
            let asked = Instant::now();
            ask(&mut stream, &mut answer, epoll.as_ref())?;
            waited += asked.elapsed();
            sys::compute(self.compute);
        }
        run.set("took_s", started.elapsed().as_secs_f64());
        run.set("waited_s", waited.as_secs_f64());
        drop(stream);
        connect(&listener, b'e')?;
        sys::wait(child, true)?;
        drop(idle);
        let connections = if self.reconnect { self.answers } else { 1 };
        run.set("sent", self.answers * QUESTION_BYTES as u64 + connections);
        run.set("received", self.answers * self.len as u64);
        Ok(())
    }
}
