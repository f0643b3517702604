//! The three forms of weighted stacks, on a constructed run.

use std::collections::BTreeMap;
use std::io::Read;

use prost::Message;

use super::pprof::{Proto, proto};
use super::weigh::Of;
use super::{flamegraph, folded, pprof};
use crate::model::event::{Event, Meta};
use crate::model::meta::FrameRecord;
use crate::model::profile::{Activity, Profile};
use crate::pipeline::analysis::{Analysis, Options};
use crate::testing::{self, stacks as made};

fn profile_of(events: &[Event]) -> Profile {
    let mut analysis = Analysis::new(Options::default());
    events.iter().for_each(|event| analysis.record(&testing::bytes(event)));
    analysis.finish_profile()
}

fn profile() -> Profile {
    profile_of(&made::stacked_run())
}

fn text(profile: &Profile, of: Of) -> String {
    let mut out = Vec::new();
    folded::write(profile, of, &mut out).expect("memory");
    String::from_utf8(out).expect("UTF-8")
}

#[test]
fn folded_lines_run_from_the_process_to_the_innermost_function() {
    let on_cpu = text(&profile(), Of::OnCpu);
    let expected = "\
main (10);main;main;Py_RunMain;main (train.py);Trainer.step (train.py);kernel_loop;axpy 4000000
main (10);worker;main;kernel_loop;axpy;pthread_mutex_lock;futex_wait_queue_[k] 2000000
";
    assert_eq!(on_cpu, expected);
    let off_cpu = text(&profile(), Of::OffCpu);
    assert!(off_cpu.lines().count() == 3 && off_cpu.lines().all(|line| line.contains(";[futex] ")), "{off_cpu}");
    assert!(off_cpu.contains("main (10);worker;app+0x4100;app+0x4000;[futex] "), "{off_cpu}");
    let wall: Vec<String> = text(&profile(), Of::Wall).lines().map(str::to_owned).collect();
    assert_eq!(wall.len(), 5, "both: {wall:?}");
}

#[test]
fn a_hostile_name_neither_adds_frames_nor_lines_nor_markup() {
    let mut events = made::stacked_run();
    let name = "a;b\n<script>alert(1)</script>&\"\u{1b}[2J 7";
    let frame = FrameRecord { id: 600, function: Some(name.to_owned()), ..FrameRecord::default() };
    events.push(testing::meta_event(0, Meta::Frame(frame)));
    events.push(made::stack(600, &[600]));
    events.push(made::sample(made::START + 50, 10, 10, 600, 5_000_000));
    let profile = profile_of(&events);
    let lines = text(&profile, Of::OnCpu);
    assert_eq!(lines.lines().count(), 3, "{lines}");
    assert!(lines.contains("main (10);main;a:b"), "{lines}");
    let mut svg = Vec::new();
    flamegraph::write(&profile, Of::Wall, &mut svg).expect("a picture");
    let svg = String::from_utf8(svg).expect("UTF-8");
    assert!(!svg.contains("<script>alert") && svg.contains("&lt;script&gt;"), "escaped");
    assert!(!svg.contains('\u{1b}'));
    assert!(svg.contains("&lt;0.1 %"), "a share may begin with markup");
    let markup = svg.split("<![CDATA[").next().unwrap_or_default();
    let tags = |rest: &str| rest.starts_with(|next: char| next.is_ascii_alphabetic() || "/?!".contains(next));
    for rest in markup.split('<').skip(1) {
        assert!(tags(rest), "no element begins like this: <{}", rest.chars().take(60).collect::<String>());
    }
}

#[test]
fn the_picture_is_the_same_each_time_and_names_functions() {
    let draw = || {
        let mut svg = Vec::new();
        flamegraph::write(&profile(), Of::Wall, &mut svg).expect("a picture");
        String::from_utf8(svg).expect("UTF-8")
    };
    let svg = draw();
    assert_eq!(svg, draw());
    assert!(svg.contains("Trainer.step (train.py)") && svg.contains("[futex]"), "functions and reasons");
    let nothing = profile_of(&[]);
    assert!(flamegraph::write(&nothing, Of::Wall, &mut Vec::new()).is_err(), "there is nothing to draw");
}

fn decoded(of: Of) -> Proto {
    let mut bytes = Vec::new();
    pprof::write(&profile(), of, &mut bytes).expect("memory");
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).expect("gzip");
    Proto::decode(&plain[..]).expect("a profile")
}

#[test]
fn a_profile_for_pprof_holds_all_time_and_refers_to_what_it_defines() {
    let proto = decoded(Of::Wall);
    let text = |index: i64| proto.string_table[usize::try_from(index).expect("an index")].as_str();
    assert_eq!(proto.string_table[0], "");
    let types: Vec<(&str, &str)> = proto.sample_type.iter().map(|kind| (text(kind.r#type), text(kind.unit))).collect();
    assert_eq!(types, [("samples", "count"), ("cpu", "nanoseconds"), ("waits", "count"), ("wait", "nanoseconds")]);
    let sums = proto.sample.iter().fold([0; 4], |mut sums, sample| {
        sums.iter_mut().zip(&sample.value).for_each(|(sum, value)| *sum += value);
        sums
    });
    let profile = profile();
    let of = |on_cpu: bool| profile.entries.iter().filter(move |entry| (entry.activity == Activity::OnCpu) == on_cpu);
    let ns = |on_cpu: bool| of(on_cpu).map(|entry| entry.ns as i64).sum::<i64>();
    assert_eq!((sums[0], sums[1], sums[3]), (600, ns(true), ns(false)));
    for sample in &proto.sample {
        assert!(
            sample.location_id.iter().all(|id| proto.location.iter().any(|location| location.id == *id)),
            "{sample:?}"
        );
        let keys: BTreeMap<&str, &str> = sample.label.iter().map(|label| (text(label.key), text(label.str))).collect();
        assert!(keys.contains_key("tid") && keys["process"] == "main", "{keys:?}");
        assert_eq!(keys.get("state").copied(), (sample.value[3] > 0).then_some("futex"));
    }
    for location in &proto.location {
        assert!(location.mapping_id == 0 || proto.mapping.iter().any(|mapping| mapping.id == location.mapping_id));
        for line in &location.line {
            assert!(proto.function.iter().any(|function| function.id == line.function_id), "{location:?}");
        }
    }
    let fast = proto.mapping.iter().find(|mapping| text(mapping.filename) == "/lib/fast.so").expect("the file");
    assert_eq!((text(fast.build_id), fast.has_functions, fast.has_inline_frames), ("b3", true, true));
    let app = proto.mapping.iter().find(|mapping| text(mapping.filename) == "/opt/app").expect("the file");
    assert!(!app.has_functions, "nothing named its addresses");
}

#[test]
fn what_is_not_asked_for_is_left_out() {
    assert_eq!(decoded(Of::OnCpu).sample_type.len(), 2);
    let off_cpu = decoded(Of::OffCpu);
    assert_eq!((off_cpu.sample_type.len(), off_cpu.period, off_cpu.sample.len()), (2, 0, 3));
    assert!(proto(&profile_of(&[]), Of::Wall).sample.is_empty());
}

/// Only with TRACER_EXPORTS: writes the files, to be opened with other programs.
#[test]
fn files_for_other_readers() {
    let Some(folder) = std::env::var_os("TRACER_EXPORTS").map(std::path::PathBuf::from) else { return };
    let mut events = made::stacked_run();
    let mut batch = crate::pipeline::batch::Batch::new();
    events.drain(..).for_each(|event| batch.push(&testing::bytes(&event)));
    let file = folder.join("made.trc");
    let mut writer = crate::capture::Writer::create(&file, Default::default()).expect("a file");
    writer.write(&batch).expect("written");
    writer.finish().expect("written");
}
