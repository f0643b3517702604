//! `tracer report` and `tracer export`: the same stages as live, fed from a capture.

use std::{
    io::{BufWriter, IsTerminal, Write},
    path::Path,
};

use super::{
    FAILED, Failure, live,
    output::{self, Named},
};
use crate::{
    capture::Reader,
    cli::{ExportArgs, ExportFormat, Format, ProfileOf, ReportArgs},
    export::{self, weigh::Of},
    pipeline::{
        analysis::{self, Analysis},
        decode,
        order::Order,
    },
};

fn failure(message: impl std::fmt::Display) -> Failure {
    Failure::new(FAILED, message)
}

/// Hands every record of a capture to a sink, in the order of time. Says on stderr what was cut.
fn replay(path: &Path, sink: &mut impl FnMut(&[u8])) -> Result<(), Failure> {
    let mut reader = Reader::open(path).map_err(failure)?;
    let mut order = Order::default();
    while let Some(batch) = reader.next_batch().map_err(failure)? {
        order.push(&batch);
        order.drain(sink);
    }
    order.finish(sink);
    if let Some(cut) = reader.cut() {
        eprintln!("tracer: {}: {cut}", path.display());
    }
    Ok(())
}

fn analyse(path: &Path) -> Result<Analysis, Failure> {
    let mut analysis = Analysis::new(analysis::Options::default());
    replay(path, &mut |record| analysis.record(record))?;
    Ok(analysis)
}

/// Weighted stacks in one of their forms. All of it is made before anything is written.
fn profile(args: &ExportArgs) -> Result<Vec<u8>, Failure> {
    let profile = analyse(&args.capture)?.finish_profile();
    if profile.entries.is_empty() {
        return Err(failure(format!(
            "{}: the capture holds no stacks; record it with the family cpu",
            args.capture.display()
        )));
    }
    let of = match args.of {
        ProfileOf::OnCpu => Of::OnCpu,
        ProfileOf::OffCpu => Of::OffCpu,
        ProfileOf::Wall => Of::Wall,
    };
    let mut out = Vec::new();
    let written = match args.to {
        ExportFormat::Flamegraph => export::flamegraph::write(&profile, of, &mut out),
        ExportFormat::Pprof => export::pprof::write(&profile, of, &mut out),
        _ => export::folded::write(&profile, of, &mut out),
    };
    written.map_err(|error| failure(format!("{}: {error}", args.capture.display())))?;
    Ok(out)
}

/// `tracer report`.
pub fn report(args: &ReportArgs) -> Result<u8, Failure> {
    live::check_fail_on(&args.output, FAILED)?;
    let report = analyse(&args.capture)?.finish();
    let mut destination = match &args.output.output {
        Some(path) => Named::open(path).map_err(failure)?,
        None => Named::Stdout,
    };
    let to_terminal = args.output.output.is_none() && output::colour(&std::io::stdout());
    destination.write(&live::render(&report, args.output.format, to_terminal).map_err(failure)?).map_err(failure)?;
    Ok(u8::from(live::failed_on(&report, &args.output)))
}

/// `tracer export`.
pub fn export(args: &ExportArgs) -> Result<u8, Failure> {
    match args.to {
        ExportFormat::Json => {
            let report = analyse(&args.capture)?.finish();
            let mut destination = match &args.output {
                Some(path) => Named::open(path).map_err(failure)?,
                None => Named::Stdout,
            };
            destination.write(&live::render(&report, Format::Json, false).map_err(failure)?).map_err(failure)?;
        }
        ExportFormat::Folded | ExportFormat::Flamegraph | ExportFormat::Pprof => {
            let to_stdout = args.output.as_ref().is_none_or(|path| path.as_os_str() == "-");
            if args.to == ExportFormat::Pprof && to_stdout && std::io::stdout().is_terminal() {
                return Err(failure("a profile for pprof is binary: name a file with -o"));
            }
            let profile = profile(args)?;
            let mut destination = match &args.output {
                Some(path) => Named::open(path).map_err(failure)?,
                None => Named::Stdout,
            };
            destination.write(&profile).map_err(failure)?;
        }
        ExportFormat::Ndjson => {
            // A capture that cannot be read leaves no half-written output behind.
            drop(Reader::open(&args.capture).map_err(failure)?);
            let out: Box<dyn Write> = match &args.output {
                Some(path) if path.as_os_str() != "-" => Box::new(
                    output::create(path)
                        .map_err(|error| failure(format!("cannot write {}: {error}", path.display())))?,
                ),
                _ => Box::new(std::io::stdout()),
            };
            let mut out = BufWriter::with_capacity(1 << 16, out);
            let mut outcome = Ok(());
            replay(&args.capture, &mut |record| {
                if outcome.is_ok() {
                    outcome = match decode::decode(record) {
                        Ok(event) => export::ndjson::write_event(&event, &mut out),
                        Err(undecoded) => export::ndjson::write_undecoded(&undecoded, &mut out),
                    };
                }
            })?;
            output::forgive(outcome.and_then(|()| out.flush()))
                .map_err(|error| failure(format!("cannot write the export: {error}")))?;
        }
    }
    Ok(0)
}
