//! Family `net`: whom do threads wait for at sockets, and how fast are the connections? What the kernel counts of living connections user
//! space asks it for (`app/network.rs`).

use tracer_common::{
    FamilyId,
    config::{Config, Offsets},
};

use super::{CostClass, Family, Hook, Program, Readiness, Settings, memory_readiness};
use crate::kernel::{host::HostFacts, offsets};

/// See the module.
pub struct Net;

/// The tracepoint that fires when a socket changes its state.
const STATE: &str = "inet_sock_set_state";

/// Programs that see what calls move through unix sockets.
const CALLS: [&str; 2] = ["sock_send_length", "sock_recv_length"];

const PROGRAMS: &[Program] = &[
    Program {
        name: STATE,
        hook: Hook::TpBtf { name: STATE },
        required: true,
        purpose: "how long connecting took, and what went through connections that are closed",
        fallback: None,
    },
    Program {
        name: CALLS[0],
        hook: Hook::TpBtf { name: CALLS[0] },
        required: false,
        purpose: "bytes that were sent through unix sockets",
        fallback: None,
    },
    Program {
        name: CALLS[1],
        hook: Hook::TpBtf { name: CALLS[1] },
        required: false,
        purpose: "bytes that were received through unix sockets",
        fallback: None,
    },
];

impl Family for Net {
    fn id(&self) -> FamilyId {
        FamilyId::Net
    }

    fn name(&self) -> &'static str {
        "net"
    }

    fn question(&self) -> &'static str {
        "whom did threads wait for at sockets, how long, and was it the other side or the way to it?"
    }

    fn cost_class(&self) -> CostClass {
        CostClass::Rare
    }

    fn builds_on(&self) -> &'static [FamilyId] {
        // Its set of traced threads, and its account of softirqs, which tells who sent what is received on this host.
        &[FamilyId::Sched]
    }

    fn programs(&self) -> &'static [Program] {
        PROGRAMS
    }

    fn can_run(&self, host: &HostFacts) -> Readiness {
        let lacks = |offsets: &Offsets| {
            let mut lacks = offsets::missing_for_net(offsets);
            if !super::sched::tells_senders(host) {
                lacks.push(
                    "this kernel does not describe its per-CPU variables: which process of this host answers is unknown",
                );
            }
            lacks
        };
        memory_readiness(host, PROGRAMS, STATE, "use a kernel with IPv4 from 4.16 on", lacks)
    }

    fn while_at_unix_sockets(&self) -> &'static [&'static str] {
        &CALLS
    }

    fn configure(&self, _host: &HostFacts, _settings: Settings, _config: &mut Config) {}
}
