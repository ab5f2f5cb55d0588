# The guest behind probe.bin, a few hundred bytes: 32 bit, page tables, 64 bit, 64 MiB touched, 10,000 exits, 20 timer
# interrupts; then it ends QEMU with code 33 through isa-debug-exit. A host that fakes KVM fails on the way.
#   as --64 -o probe.o probe.S && ld -Ttext=0x100000 --oformat binary -e _start -o probe.bin probe.o
.set STACK, 0x180000
.set PML4, 0x200000
.code32
.section .text
.globl _start
.align 4
header:
  .long 0x1BADB002, 0x00010000, -(0x1BADB002 + 0x00010000)
  .long header, header, 0, 0, _start
_start:
  cli
  cld
  movl $STACK, %esp
  # page tables: identity map of 4 GiB by 2 MiB pages
  movl $PML4, %edi
  xorl %eax, %eax
  movl $(6*1024), %ecx
  rep stosl
  movl $PML4, %edi
  movl $(PML4+0x1003), (%edi)
  movl $4, %ecx
  movl $(PML4+0x2003), %eax
  movl $(PML4+0x1000), %edi
1: movl %eax, (%edi)
  addl $0x1000, %eax
  addl $8, %edi
  loop 1b
  movl $(PML4+0x2000), %edi
  movl $0x83, %eax
  movl $2048, %ecx
2: movl %eax, (%edi)
  movl $0, 4(%edi)
  addl $0x200000, %eax
  addl $8, %edi
  loop 2b
  movl %cr4, %eax
  orl $0x20, %eax
  movl %eax, %cr4
  movl $PML4, %eax
  movl %eax, %cr3
  movl $0xC0000080, %ecx
  rdmsr
  orl $0x100, %eax
  wrmsr
  movl %cr0, %eax
  orl $0x80000001, %eax
  movl %eax, %cr0
  lgdt gdtr
  ljmp $8, $long
.code64
long:
  movw $16, %ax
  movw %ax, %ds
  movw %ax, %es
  movw %ax, %ss
  movb $'L', %al
  movw $0x402, %dx
  outb %al, %dx
  # idt: vector 32 -> tick, all else -> fault
  movq $0x190000, %rdi
  xorl %ecx, %ecx
3: leaq fault(%rip), %rax
  cmpl $32, %ecx
  jne 4f
  leaq tick(%rip), %rax
4: movw %ax, (%rdi)
  movw $8, 2(%rdi)
  movw $0x8e00, 4(%rdi)
  shrq $16, %rax
  movw %ax, 6(%rdi)
  shrq $16, %rax
  movl %eax, 8(%rdi)
  movl $0, 12(%rdi)
  addq $16, %rdi
  incl %ecx
  cmpl $48, %ecx
  jne 3b
  lidt idtr(%rip)
  # touch 64 MiB: writes, then copies by string instructions, then sum
  movq $0x1000000, %rdi
  movq $0x800000, %rcx
  movq $0x0123456789abcdef, %rax
  rep stosq
  movq $0x1000000, %rsi
  movq $0x3000000, %rdi
  movq $0x400000, %rcx
  rep movsq
  movb $'M', %al
  movw $0x402, %dx
  outb %al, %dx
  # cpuid, many exits
  movl $10000, %esi
5: xorl %eax, %eax
  cpuid
  decl %esi
  jnz 5b
  movb $'C', %al
  movw $0x402, %dx
  outb %al, %dx
  # PIC: irq0 -> 32; PIT 1000 Hz
  movb $0x11, %al
  outb %al, $0x20
  movb $32, %al
  outb %al, $0x21
  movb $4, %al
  outb %al, $0x21
  movb $1, %al
  outb %al, $0x21
  movb $0xfe, %al
  outb %al, $0x21
  movb $0x34, %al
  outb %al, $0x43
  movb $0xa9, %al
  outb %al, $0x40
  movb $4, %al
  outb %al, $0x40
  xorl %ebx, %ebx
  sti
6: hlt
  cmpl $20, %ebx
  jb 6b
  cli
  movb $'T', %al
  movw $0x402, %dx
  outb %al, %dx
  movw $0x501, %dx
  movb $0x10, %al
  outb %al, %dx
7: hlt
  jmp 7b
tick:
  incl %ebx
  pushq %rax
  movb $0x20, %al
  outb %al, $0x20
  popq %rax
  iretq
fault:
  movb $'F', %al
  movw $0x402, %dx
  outb %al, %dx
  movw $0x501, %dx
  movb $0x7f, %al
  outb %al, %dx
8: hlt
  jmp 8b
.align 8
gdt: .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff
gdtr: .word 23
  .long gdt
idtr: .word 48*16-1
  .quad 0x190000
