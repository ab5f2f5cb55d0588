/* Writes its argument to QEMU's isa-debug-exit port (0x501): QEMU ends with code 2N+1. Debian's cloud kernel has no /dev/port. */
#include <stdlib.h>
#include <sys/io.h>
int main(int argc, char **argv) {
    if (argc != 2 || iopl(3) != 0) return 1;
    outb((unsigned char)atoi(argv[1]), 0x501);
    return 0;
}
