//! `rename`: a thread changes its name, the last time perhaps to one that no terminal should see.

use std::time::Duration;

use serde_json::json;

use crate::truth::Run;
use crate::{roles, sys};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value_t = 3)]
    count: usize,
    /// Between two names.
    #[arg(long, value_parser = roles::duration, default_value = "50ms")]
    period: Duration,
    /// The last name holds an escape sequence, a line feed and bytes that are not UTF-8.
    #[arg(long)]
    odd: bool,
}

impl roles::Options for Options {
    fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let mut names: Vec<Vec<u8>> = (0..self.count).map(|_| run.name().into_bytes()).collect();
        if self.odd {
            names.push(b"\x1b[31m\xff\xfe\nx".to_vec());
        }
        let (own, period) = (names.clone(), self.period);
        let worker = run.spawn("renamer", move |_| {
            for name in &own {
                std::thread::sleep(period);
                sys::set_name(name);
            }
            std::thread::sleep(period);
        })?;
        let shown: Vec<String> = names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        run.set("names", json!(shown));
        let workers = vec![worker];
        run.ready(&workers);
        run.join(workers)
    }
}
