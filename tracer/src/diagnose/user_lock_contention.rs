//! `user-lock-contention`: threads wait for a lock of user space that other threads hold.
//!
//! A futex is a lock only if its memory named a live thread of the same process as its owner, and it is contended only if
//! ownership went on: several owners in turn, or waits ended by a thread that had been an owner. So idle pools, queues and
//! condition variables (no owner), the GIL (no owner that the memory's layout tells) and deadlocks (an owner that never
//! changes) do not make this rule speak.

use super::thresholds::{REPORTED_SHARE, is_reported, severity, speedup_bound};
use super::{Claim, Facts, Outcome, Rule, confidence, deadlock, functions, parties};
use crate::model::critical_path::{Explained, PathWait};
use crate::model::report::{Comparison, Evidence, Finding, Futex, Owner, Report, Subject, Waiter};
use crate::model::units::{count, duration, grouped, percent};

/// See the file's head.
pub struct UserLockContention;

/// The lock and its holder were observed and the waits measured.
const HOLDER_SEEN: f64 = 0.9;
/// The holder was seen in less than half of the waits: who held it in the others is inferred.
const HOLDER_INFERRED: f64 = 0.75;

const MAX_VICTIMS: usize = 8;

/// A report lists so many owners of a futex.
const MAX_OWNERS_LISTED: usize = 16;

impl Rule for UserLockContention {
    fn class(&self) -> &'static str {
        "user-lock-contention"
    }

    fn check(&self, facts: &Facts<'_>) -> Outcome {
        let Some(locks) = &facts.report.locks else {
            return Outcome::CouldNotRun("the family sched did not run".to_owned());
        };
        if locks.futexes.is_empty() {
            return Outcome::Silent("no thread waited on a futex".to_owned());
        }
        let owned = locks.futexes.iter().filter(|futex| !futex.owners.is_empty()).count();
        if owned == 0 {
            return Outcome::Silent(format!(
                "no owner was seen at any of {}: idle threads, queues and condition variables look like this",
                count(locks.futexes.len() as u64, "futex address")
            ));
        }
        let hopeless = deadlock::hopeless(facts.report);
        let contended: Vec<Claim> = locks
            .futexes
            .iter()
            .enumerate()
            .filter(|(_, futex)| is_contended(futex) && !hopeless.contains(&(futex.pid, futex.address.as_str())))
            .filter(|(_, futex)| !is_reported_already(facts, futex))
            .filter_map(|(index, futex)| claim(facts.report, index, futex))
            .collect();
        if contended.is_empty() && locks.futexes.iter().any(is_contended) {
            return Outcome::Silent(
                "what threads waited for at locks is reported as deadlock or logging-convoy".to_owned(),
            );
        }
        if contended.is_empty() {
            return Outcome::Silent(format!(
                "{} had an owner, but none changed hands and can do so again: that is no contention",
                count(owned as u64, "lock")
            ));
        }
        Outcome::Claims(contended)
    }
}

/// Whether an earlier rule told what this lock is.
fn is_reported_already(facts: &Facts<'_>, futex: &Futex) -> bool {
    let address = format!(" at {}", futex.address);
    let is_it = |culprit: &Subject| culprit.lock.as_ref().is_some_and(|lock| lock.ends_with(&address));
    let about_it = |finding: &&Finding| {
        finding.class == "logging-convoy" && finding.victims.first().is_some_and(|victim| victim.pid == Some(futex.pid))
    };
    facts.earlier.iter().filter(about_it).filter_map(|finding| finding.culprit.as_ref()).any(is_it)
}

fn is_contended(futex: &Futex) -> bool {
    futex.completed > 0 && (futex.owners.len() >= 2 || (futex.woken_by_owner > 0 && !futex.owners.is_empty()))
}

fn claim(report: &Report, index: usize, futex: &Futex) -> Option<Claim> {
    let (owner, waiter) = (futex.owners.first()?, futex.waiters.first()?);
    let wall_s = report.window.duration_s;
    let on_path = parties::much_on_path(report, futex);
    let lost_s = on_path.as_ref().map_or(waiter.total_s, |(_, wait)| wait.s);
    let own_confidence = if futex.waits_with_owner * 2 >= futex.waits { HOLDER_SEEN } else { HOLDER_INFERRED };
    let kind = futex.kind.as_deref().unwrap_or("lock");
    let lock = format!("{kind} at {}", futex.address);
    let holder = parties::named("thread", owner.thread.as_deref(), owner.tid);
    let holders = Holders::of(futex, owner, &holder);
    let process = (Some(futex.pid), futex.process.as_ref());
    let mut culprit = parties::party(report, process, (owner.tid, owner.thread.as_ref()));
    culprit.ns_tid = Some(owner.ns_tid);
    culprit.lock = Some(lock.clone());
    // What was done during the waits says more than what the holder did over the run.
    let meanwhile = futex.explanation.as_ref().and_then(|explanation| explanation.did.first());
    let doing = functions::doing(report, futex.pid, owner.tid, |wait| wait.object.as_ref() == Some(&futex.address))
        .filter(|_| meanwhile.is_none());
    culprit.path = meanwhile.and_then(|did| did.path.clone());
    culprit.peer = meanwhile.and_then(|did| did.ends.clone());
    let function = meanwhile.and_then(|did| did.functions.first()).or(doing.as_ref().map(|doing| doing.time));
    if let Some(function) = function {
        functions::point_at(&mut culprit, &function.location);
    }
    let waits_in = waiter.places.first().and_then(|place| functions::words(&place.location));
    let called = waits_in.map(|function| format!(", called by {function}")).unwrap_or_default();
    let holder_did = meanwhile.map(|did| format!(" {}", meanwhile_words(did)));
    let holder_does = holder_did.or_else(|| {
        doing.as_ref().and_then(|doing| {
            let verb = if doing.waited { "waited" } else { "computed" };
            let function = functions::words(&doing.time.location)?;
            Some(format!(" Over the run {holder} {verb} mostly in {function}."))
        })
    });
    let victims = futex.waiters.iter().take(MAX_VICTIMS).map(|waiter| parties::waiter(report, futex, waiter)).collect();
    let others = if futex.threads > 1 { format!(", {} in all", count(futex.threads, "thread")) } else { String::new() };
    let on_file = meanwhile.and_then(|did| did.path.as_ref());
    let under = on_file.map(|path| format!("; under it threads waited for the file {path}")).unwrap_or_default();
    let finding = Finding {
        class: UserLockContention.class().to_owned(),
        rank: 0,
        severity: severity(lost_s, wall_s),
        confidence: confidence(report, own_confidence),
        summary: format!(
            "{} of {} waited {} ({} of {}) for the {lock}{called}{others}; {}{under}",
            parties::named("thread", waiter.thread.as_deref(), waiter.tid),
            parties::named("process", futex.process.as_deref(), futex.pid),
            duration(lost_s),
            percent(lost_s / wall_s),
            duration(wall_s),
            holders.held,
        ),
        lost_s: Some(lost_s),
        share_of_wall: on_path.as_ref().map(|(_, wait)| wait.share),
        speedup_bound: speedup_bound(lost_s, wall_s),
        culprit: Some(culprit),
        victims,
        evidence: evidence(report, index, futex, waiter, doing.as_ref(), on_path),
        hypothesis: format!(
            "Threads that need this lock run one after the other: {}. {}{}",
            holders.hold,
            bound(report, on_path.is_some()),
            holder_does.unwrap_or_default()
        ),
        fix: format!(
            "Hold the lock for a shorter time {} (compute before taking it, no input or output under it), split it, or \
             give each thread its own data and merge at the end.",
            holders.place
        ),
        experiment: format!(
            "Run the same work with one thread less among those that take {}: if the time hardly changes, the lock is the limit. \
             Then run it with the fix: the wait at this lock must fall, and the wall time with it, by at most {}.",
            futex.address,
            duration(lost_s)
        ),
        consequences: Vec::new(),
    };
    let reported = is_reported(lost_s, wall_s, futex.waits, futex.max_s);
    Some(Claim { finding, reported })
}

/// What the seconds lost are.
fn bound(report: &Report, on_path: bool) -> &'static str {
    if on_path {
        return "The seconds lost are those of the critical path that waits for this lock are the reason of.";
    }
    if report.critical_path.is_some() {
        return "The seconds lost are those of the thread that waited longest, an upper bound for its own work: the critical path of \
                CMD's main thread hardly waits for this lock.";
    }
    "The seconds lost are those of the thread that waited longest, an upper bound, since no critical path says whether the run \
     waited for it."
}

/// What was done while the thread that waited longest waited.
fn meanwhile_words(did: &Explained) -> String {
    let who = match (&did.thread, did.tid) {
        (name, Some(tid)) => parties::named("thread", name.as_deref(), tid),
        (_, None) => format!("{} that held it", count(did.threads, "thread")),
    };
    let place = did.functions.first().and_then(|function| functions::words(&function.location));
    let place = place.map(|function| format!(" in {function}")).unwrap_or_default();
    let did_what = match (did.state.as_str(), &did.detail) {
        ("on_cpu", _) => format!("computed{place}"),
        ("runnable", _) => "stood ready, but had no CPU".to_owned(),
        ("timer", _) => format!("slept{place}"),
        ("unknown", _) => "did what was not seen".to_owned(),
        (state, Some(call)) if call != state => format!("waited for {state} ({call}){place}"),
        (state, _) => format!("waited for {state}{place}"),
    };
    let on =
        did.path.as_ref().map(|path| format!(" on {path}")).or(did.ends.as_ref().map(|ends| format!(" at the {ends}")));
    let on = on.unwrap_or_default();
    format!("For {} of the longest waiter's time {who} {did_what}{on}.", percent(did.share))
}

/// How to speak of who held the lock: one thread only where it held it in most of the waits.
struct Holders {
    held: String,
    hold: String,
    place: String,
}

impl Holders {
    fn of(futex: &Futex, most: &Owner, holder: &str) -> Self {
        let seen = count(futex.waits_with_owner, "wait");
        if most.count * 2 >= futex.waits_with_owner {
            return Holders {
                held: format!("{holder} held it in {} of {seen} with a holder seen", grouped(most.count)),
                hold: format!("{holder} holds it while the others wait"),
                place: format!("in {holder}"),
            };
        }
        // At the bound of the list there may be more.
        let at_least = if futex.owners.len() >= MAX_OWNERS_LISTED { "at least " } else { "" };
        let number = format!("{at_least}{}", count(futex.owners.len() as u64, "holder"));
        let share = percent(most.count as f64 / futex.waits_with_owner as f64);
        Holders {
            held: format!(
                "its {number} held it in turn (most often {holder}, in {share} of {seen} with a holder seen)"
            ),
            hold: "whichever of them holds it, the others wait".to_owned(),
            place: format!("in each of its {number}"),
        }
    }
}

fn evidence(
    report: &Report,
    index: usize,
    futex: &Futex,
    waiter: &Waiter,
    doing: Option<&functions::Doing>,
    on_path: Option<(usize, &PathWait)>,
) -> Vec<Evidence> {
    let at = |field: &str| format!("/locks/futexes/{index}/{field}");
    let wall_s = report.window.duration_s;
    let compared = |what: &str, value: f64| Some(Comparison { what: what.to_owned(), value });
    let one = |metric: &str, value: f64, unit: &str, source: String, compared_with| Evidence {
        metric: metric.to_owned(),
        value,
        unit: unit.to_owned(),
        source,
        compared_with,
    };
    let threshold = compared("reporting threshold", REPORTED_SHARE * wall_s);
    let mut evidence = vec![
        one(
            "longest total wait of one thread (upper bound of the loss)",
            waiter.total_s,
            "s",
            at("waiters/0/total_s"),
            threshold,
        ),
        one("wait of all threads", futex.total_s, "s", at("total_s"), compared("wall time", wall_s)),
        one("longest single wait", futex.max_s, "s", at("max_s"), None),
        one("waits", futex.waits as f64, "1", at("waits"), None),
        one(
            "waits with a verified live owner",
            futex.waits_with_owner as f64,
            "1",
            at("waits_with_owner"),
            compared("waits", futex.waits as f64),
        ),
        one(
            "waits ended by a thread seen as owner",
            futex.woken_by_owner as f64,
            "1",
            at("woken_by_owner"),
            compared("waits that ended", futex.completed as f64),
        ),
    ];
    evidence.extend(on_path.map(|(index, wait)| {
        let source = format!("/critical_path/waits/{index}/s");
        one("of the critical path, for waits for this lock", wait.s, "s", source, compared("wall time", wall_s))
    }));
    if let Some(did) = futex.explanation.as_ref().and_then(|explanation| explanation.did.first()) {
        let metric = format!("of the longest waiter's time explained by state {} of the holder", did.state);
        evidence.push(one(&metric, did.s, "s", at("explanation/did/0/s"), None));
    }
    let place = waiter.places.first().and_then(|place| Some((place.total_s, functions::words(&place.location)?)));
    evidence.extend(place.map(|(total_s, function)| {
        one(&format!("of the longest wait called by {function}"), total_s, "s", at("waiters/0/places/0/total_s"), None)
    }));
    let doing = doing.and_then(|doing| Some((doing, functions::words(&doing.time.location)?)));
    evidence.extend(doing.map(|(doing, function)| {
        let verb = if doing.waited { "waited" } else { "computed" };
        one(&format!("time that the holder {verb} in {function}"), doing.time.total_s, "s", doing.source.clone(), None)
    }));
    evidence
}
