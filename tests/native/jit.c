/* Computes in code that it makes at run time, as a JIT does, and writes a map of it as JITs do: a right one, a damaged one, or a
 * damaged one with the right line in it.
 *
 * Arguments: MAP (right, damaged, mixed) SECONDS. The chain: jit_loop (in the map), call_made, main. */
#include "chain.h"
#include <sys/mman.h>

#if defined(__x86_64__)
/* mov $10000000, %rcx; 1: dec %rcx; jnz 1b; ret */
static const unsigned char CODE[] = {0x48, 0xc7, 0xc1, 0x80, 0x96, 0x98, 0x00, 0x48, 0xff, 0xc9, 0x75, 0xfb, 0xc3};
#elif defined(__aarch64__)
/* movz x9, #0x98, lsl #16; 1: subs x9, x9, #1; b.ne 1b; ret */
static const unsigned int CODE[] = {0xd2a01309, 0xf1000529, 0x54ffffe1, 0xd65f03c0};
#else
#error "no machine code for this processor"
#endif

#define ROOM 4096
#define AT 512
#define LATE_NS 500000000LL

ALONE long call_made(void (*made)(void)) {
    made();
    return 1;
}

/* Inlined, so that main calls call_made. */
static inline __attribute__((always_inline)) void run_for(void (*made)(void), long long ns) {
    long long end = clock_ns(CLOCK_MONOTONIC) + ns;
    while (clock_ns(CLOCK_MONOTONIC) < end)
        sink += (unsigned long)call_made(made);
}

static void write_map(const char *kind, unsigned long start) {
    char path[64];
    snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
    FILE *map = fopen(path, "w");
    if (!map)
        _exit(3);
    if (kind[0] != 'r') {
        /* Empty, in front of it, behind it, beyond the address space, no numbers, no end, no text at all. */
        fprintf(map, "%lx 0 wrong_empty\n%lx 100 wrong_before\n%lx 100 wrong_behind\n", start, start - 0x100,
                start + sizeof CODE);
        fprintf(map, "ffffffffffffffff ffffffffffffffff wrong_huge\n%lx ffffffffffffffffff wrong_number\n", start);
        fprintf(map, "zz zz wrong_letters\n\n \n%lx\n%lx 10\n-%lx 10 wrong_sign\n", start, start, start);
        for (int byte = 0; byte < 70000; byte++)
            fputc(byte % 255 + (byte % 255 == '\n'), map);
        fputc('\n', map);
    }
    if (kind[0] != 'd')
        fprintf(map, "%lx %lx jit_loop\n", start, (unsigned long)sizeof CODE);
    if (kind[0] != 'r')
        fprintf(map, "%lx", start);
    fclose(map);
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    unsigned char *room = mmap(NULL, ROOM, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED)
        return 3;
    memcpy(room + AT, CODE, sizeof CODE);
    __builtin___clear_cache((char *)room, (char *)room + ROOM);
    void (*made)(void);
    void *start = room + AT;
    memcpy(&made, &start, sizeof made);
    int late = argv[1][0] == 'l';
    if (late)
        run_for(made, LATE_NS);
    write_map(late ? "right" : argv[1], (unsigned long)(room + AT));
    /* Who has looked for names in vain for so long may take as long to look again. */
    if (late)
        run_for(made, LATE_NS);
    struct spell spell;
    begin(&spell);
    run_for(made, (long long)(atof(argv[2]) * 1e9));
    finish(&spell);
    print_truth("jit", &spell, 1, 0);
    return 0;
}
