//! `tracer report` and `tracer export`: the same stages as live, fed from a capture.

use std::{
    io::{BufWriter, Write},
    path::Path,
};

use super::{
    FAILED, Failure, live,
    output::{self, Named},
};
use crate::{
    capture::Reader,
    cli::{ExportArgs, ExportFormat, Format, ReportArgs},
    export,
    model::report::Report,
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

fn analyse(path: &Path) -> Result<Report, Failure> {
    let mut analysis = Analysis::new(analysis::Options::default());
    replay(path, &mut |record| analysis.record(record))?;
    Ok(analysis.finish())
}

/// `tracer report`.
pub fn report(args: &ReportArgs) -> Result<u8, Failure> {
    live::check_fail_on(&args.output, FAILED)?;
    let report = analyse(&args.capture)?;
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
            let report = analyse(&args.capture)?;
            let mut destination = match &args.output {
                Some(path) => Named::open(path).map_err(failure)?,
                None => Named::Stdout,
            };
            destination.write(&live::render(&report, Format::Json, false).map_err(failure)?).map_err(failure)?;
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
