# A unikernel of forty lines: says one sentence on the first serial line and halts. Both protocols enter it in
# 32-bit protected mode without paging. Assembled with MULTIBOOT=1 it carries a multiboot header (Multiboot 0.6.96,
# section 3.1); with PVH=1 the Xen note that names a 32-bit entry (xen/include/public/elfnote.h, type 18).

.ifdef MULTIBOOT
.section .multiboot, "a"
.align 4
.long 0x1BADB002                # magic
.long 0                         # flags: nothing wanted
.long -0x1BADB002               # checksum: the three add up to zero
.endif

.ifdef PVH
.section .note.Xen, "a", @note
.align 4
.long 4, 4, 18                  # name's size, value's size, XEN_ELFNOTE_PHYS32_ENTRY
.asciz "Xen"
.long start
.endif

.text
.globl start
start:
    cli
    mov $message, %esi
next:
    lodsb
    test %al, %al
    jz done
    mov %al, %bl
    mov $0x3FD, %dx             # line status of COM1
wait_for_room:
    in %dx, %al
    test $0x20, %al
    jz wait_for_room
    mov $0x3F8, %dx
    mov %bl, %al
    out %al, %dx
    jmp next
done:
    mov $0x501, %dx             # isa-debug-exit, where the machine has one: QEMU ends with code 2*16+1
    mov $16, %al
    out %al, %dx
halt:
    hlt
    jmp halt

.section .rodata
message: .asciz "HULL UNIKERNEL OK\r\n"
