/* A loop with a probe of its author (USDT) that has a semaphore: `probe STEPS`. The probe is passed once a step, and only while its
 * semaphore says that somebody looks does the program count that it was. Prints both numbers. The note is what <sys/sdt.h> makes. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

__attribute__((section(".probes"), used)) volatile unsigned short loop_semaphore;

__attribute__((noinline)) static void begin_step(void)
{
#if defined(__x86_64__) || defined(__aarch64__)
    __asm__ volatile("990: nop\n"
                     ".pushsection .note.stapsdt,\"?\",\"note\"\n"
                     ".balign 4\n"
                     ".4byte 992f-991f, 994f-993f, 3\n"
                     "991: .asciz \"stapsdt\"\n"
                     "992: .balign 4\n"
                     "993: .8byte 990b\n"
                     ".8byte _.stapsdt.base\n"
                     ".8byte loop_semaphore\n"
                     ".asciz \"loop\"\n"
                     ".asciz \"step\"\n"
                     ".asciz \"\"\n"
                     "994: .balign 4\n"
                     ".popsection\n"
                     ".ifndef _.stapsdt.base\n"
                     ".pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n"
                     ".weak _.stapsdt.base\n"
                     ".hidden _.stapsdt.base\n"
                     "_.stapsdt.base: .space 1\n"
                     ".size _.stapsdt.base, 1\n"
                     ".popsection\n"
                     ".endif\n");
#endif
}

int main(int argc, char **argv)
{
    int steps = argc > 1 ? atoi(argv[1]) : 50, seen = 0;
    struct timespec pause = {0, 2000000};
    for (int step = 0; step < steps; step++) {
        begin_step();
        seen += loop_semaphore != 0;
        nanosleep(&pause, NULL);
    }
    printf("{\"steps\": %d, \"seen\": %d}\n", steps, seen);
    return 0;
}
