/* A team of OpenMP threads of which the first one works for much longer than the others, who spin at the barrier meanwhile
 * (OMP_WAIT_POLICY=active). Arguments: threads, steps, milliseconds of work of the first thread, of the others. Prints as JSON which
 * thread the first one is, and the others' CPU time.
 */
#define _GNU_SOURCE
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double cpu_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

__attribute__((noinline)) static void work(double ms)
{
    double end = cpu_s() + ms / 1e3;
    volatile double x = 1;
    while (cpu_s() < end)
        for (int i = 0; i < 20000; i++)
            x = x * 1.0000001 + 0.5;
}

int main(int argc, char **argv)
{
    int threads = atoi(argv[1]), steps = atoi(argv[2]);
    double first_ms = atof(argv[3]), others_ms = atof(argv[4]);
    long first = 0, other = 0;
    double other_cpu_s = 0;
    if (argc < 5)
        return 2;
#pragma omp parallel num_threads(threads)
    {
        int mine = omp_get_thread_num();
        double started = cpu_s();
        for (int step = 0; step < steps; step++) {
            work(mine == 0 ? first_ms : others_ms);
#pragma omp barrier
        }
        if (mine == 0)
            first = syscall(SYS_gettid);
        if (mine == threads - 1) {
            other = syscall(SYS_gettid);
            other_cpu_s = cpu_s() - started;
        }
    }
    printf("{\"first\":%ld,\"other\":%ld,\"other_cpu_s\":%.6f,\"other_worked_s\":%.6f}\n", first, other, other_cpu_s,
           steps * others_ms / 1e3);
    return 0;
}
