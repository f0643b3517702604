// Chains that pass through a library that calls back: libc's qsort, and libstdc++'s stream (flush calls the buffer's sync), the latter
// in a thread that libstdc++ starts.
//
// Arguments: VIA (qsort, stream) MODE (cpu, sleep, read, futex) SECONDS.
#include "chain.h"

#include <ostream>
#include <streambuf>
#include <thread>

static const char *mode;
static double seconds;
static spell spells[1];
static long long end_ns;

extern "C" {

ALONE long inner03(long n) {
    volatile long space[9];
    space[n % 9] = n;
    do_as_asked(mode);
    return space[n % 9];
}

ALONE long inner02(long n) {
    volatile long space[70];
    space[n % 70] = n;
    return inner03(n + 1) + space[n % 70];
}

ALONE long inner01(long n) {
    volatile long space[2];
    space[n % 2] = n;
    return inner02(n + 1) + space[n % 2];
}

ALONE int compare(const void *left, const void *right) {
    long result = *static_cast<const long *>(left) - *static_cast<const long *>(right);
    // The rest of a sort that the time is up for.
    if (clock_ns(CLOCK_MONOTONIC) < end_ns)
        sink += static_cast<unsigned long>(inner01(result & 7));
    return static_cast<int>(result);
}
}

struct Buffer : std::streambuf {
    ALONE int sync() override {
        sink += static_cast<unsigned long>(inner01(5));
        return 0;
    }
};

static bool through_stream;

extern "C" {

ALONE long outer03(long n) {
    volatile long space[33];
    space[n % 33] = n;
    if (through_stream) {
        Buffer buffer;
        std::ostream out(&buffer);
        while (clock_ns(CLOCK_MONOTONIC) < end_ns)
            out.flush();
    } else {
        long values[64];
        while (clock_ns(CLOCK_MONOTONIC) < end_ns) {
            for (long i = 0; i < 64; i++)
                values[i] = i * 2654435761L % 1009;
            qsort(values, 64, sizeof values[0], compare);
        }
    }
    return space[n % 33];
}

ALONE long outer02(long n) {
    volatile long space[3];
    space[n % 3] = n;
    return outer03(n + 1) + space[n % 3];
}

ALONE void outer01(void) {
    begin(&spells[0]);
    end_ns = spells[0].from_ns + static_cast<long long>(seconds * 1e9);
    sink += static_cast<unsigned long>(outer02(1));
    finish(&spells[0]);
}
}

int main(int argc, char **argv) {
    if (argc < 4)
        return 2;
    through_stream = strcmp(argv[1], "stream") == 0;
    mode = argv[2];
    seconds = atof(argv[3]);
    prepare(mode);
    if (through_stream)
        std::thread(outer01).join();
    else
        outer01();
    print_truth("callbacks", spells, 1, 0);
    return 0;
}
