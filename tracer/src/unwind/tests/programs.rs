//! C programs whose stacks are hard: each writes one byte once it is in its loop, and runs until it is killed.

/// A chain of 20 functions that grows and shrinks, and a leaf that computes; with what must be said in front of `main`.
pub(super) fn chain(leaf: &str, before: &str, main: &str) -> String {
    let mut source = String::from(
        "#define _GNU_SOURCE\n#include <alloca.h>\n#include <pthread.h>\n#include <signal.h>\n#include <stdio.h>\n\
         #include <stdlib.h>\n#include <string.h>\n#include <sys/mman.h>\n#include <sys/time.h>\n#include <time.h>\n\
         #include <unistd.h>\n#define NEVER __attribute__((noinline, noclone))\nvolatile unsigned long sink;\n\
         static void ready(void) { static volatile int done; if (!done) { done = 1; write(1, \"r\", 1); } }\n",
    );
    source.push_str(leaf);
    for depth in (0..20).rev() {
        let callee = if depth == 19 { "leaf".to_owned() } else { format!("f{}", depth + 1) };
        let room = 8 + depth * 3;
        source.push_str(&format!(
            "NEVER void f{depth}(unsigned long x) {{ volatile unsigned long room[{room}]; room[x % {room}] = x; \
             {callee}(x + room[x % {room}]); sink += room[0]; }}\n"
        ));
    }
    source.push_str(before);
    source.push_str(&format!("int main(void) {{ {main} for (;;) f0(3); }}\n"));
    source
}

/// Computes for a moment.
pub(super) const SPIN: &str =
    "NEVER void leaf(unsigned long x) { ready(); for (int i = 0; i < 300; i++) sink += x * i; }\n";

/// Goes through a function of libc and back into the program.
pub(super) const QSORT: &str = "NEVER int compare(const void *a, const void *b) { ready(); \
    for (int i = 0; i < 20; i++) sink += i; return *(int *)a - *(int *)b; }\n\
    NEVER void leaf(unsigned long x) { int v[16]; for (int i = 0; i < 16; i++) v[i] = (i * 7 + x) % 16; \
    qsort(v, 16, sizeof *v, compare); sink += v[3]; }\n";

/// A frame of a size that is known at run time only.
pub(super) const ALLOCA: &str = "NEVER void fill(char *p, unsigned long n) { ready(); for (unsigned long i = 0; i < n; i++) p[i] = i; }\n\
    NEVER void leaf(unsigned long x) { unsigned long n = 64 + (x & 255); char *p = alloca(n); fill(p, n); sink += p[n / 2]; }\n";

/// Vectors on the stack, which must be aligned more than the stack is; the alloca makes GCC keep the old stack pointer in memory.
pub(super) const REALIGNED: &str = "typedef double wide __attribute__((vector_size(32)));\n\
    NEVER void fill(wide *p, char *q, unsigned long n) { ready(); for (int i = 0; i < 8; i++) p[i] = (wide){i, n, i, n}; q[0] = n; }\n\
    __attribute__((noinline, noclone, force_align_arg_pointer)) void inner(unsigned long x) { wide v[8]; \
    char *p = alloca(32 + (x & 63)); fill(v, p, x); sink += v[3][1] + p[0]; }\n\
    NEVER void leaf(unsigned long x) { wide v[8]; char *p = alloca(16 + (x & 31)); fill(v, p, x); inner(x); sink += v[1][2] + p[0]; }\n";

/// Through the PLT, the vdso, and system calls.
pub(super) const CALLS: &str = "NEVER void leaf(unsigned long x) { struct timespec t; ready(); clock_gettime(CLOCK_MONOTONIC, &t); \
    getppid(); sink += t.tv_nsec + strtoul(\"12\", 0, 10) + time(0); char b[64]; snprintf(b, sizeof b, \"%lu\", x); sink += b[0]; }\n";

/// Waits in a system call.
pub(super) const SLEEP: &str =
    "NEVER void leaf(unsigned long x) { ready(); struct timespec t = {0, 20000000}; nanosleep(&t, 0); }\n";

/// Code in anonymous memory that pushes registers and uses the frame pointer for something else: calls back into the program.
/// push rbp; push rbx; mov rbp, 0x1234; sub rsp, 0x28; call rdi; add rsp, 0x28; pop rbx; pop rbp; ret; and a loop of its own.
pub(super) const JIT: &str = "static unsigned char code[] = {0x55, 0x53, 0x48, 0xc7, 0xc5, 0x34, 0x12, 0, 0, 0x48, 0x83, 0xec, 0x28, \
    0xb9, 0, 2, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0x48, 0x83, 0xc4, 0x28, 0x5b, 0x5d, 0xc3};\n\
    static void (*made)(void);\n\
    NEVER void leaf(unsigned long x) { char *p = alloca(64 + (x & 31)); \
    if (!made) { void *m = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); \
    memcpy(m, code, sizeof code); made = m; } ready(); p[0] = x; made(); sink += p[0]; }\n";

/// A handler that computes this many rounds.
pub(super) fn handler(rounds: u32) -> String {
    format!(
        "NEVER void handled(int s) {{ ready(); for (int i = 0; i < {rounds}; i++) sink += i * s; }}\n\
         void handler(int s) {{ handled(s); sink++; }}\n"
    )
}

/// Its signals, by a timer of so many microseconds; `own_stack`: on a stack of the handler's own.
pub(super) fn timer(period_us: u32, own_stack: bool) -> String {
    let (stack, flags) = match own_stack {
        true => (
            "static char other[65536]; stack_t s = {.ss_sp = other, .ss_size = sizeof other}; sigaltstack(&s, 0);",
            "SA_ONSTACK",
        ),
        false => ("", "0"),
    };
    format!(
        "{stack} struct sigaction a = {{0}}; a.sa_handler = handler; a.sa_flags = {flags}; sigaction(SIGALRM, &a, 0); \
         struct itimerval t = {{{{0, {period_us}}}, {{0, {period_us}}}}}; setitimer(ITIMER_REAL, &t, 0);"
    )
}

/// A recursion: `depth` frames with `room` bytes in each.
pub(super) fn deep(depth: u32, room: u32) -> String {
    format!(
        "{}NEVER void down(unsigned long n) {{ volatile char room[{room}]; room[n % {room}] = n; \
         if (n == 0) {{ ready(); for (;;) sink += room[0]; }} down(n - 1); sink += room[1]; }}\n\
         int main(void) {{ down({depth} - 1); }}\n",
        chain(SPIN, "", "").split("NEVER void leaf").next().unwrap_or_default()
    )
}
