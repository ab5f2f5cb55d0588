# Runs inside the tree, after the recipe's own commands.

# The root file system is found by the identifier the disk is written with. Its journal is replayed by the kernel;
# a check at every boot costs more than it finds.
echo "UUID=$ROOT_UUID / ext4 defaults,errors=remount-ro 0 0" > /etc/fstab
printf '127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost ip6-localhost ip6-loopback\n' "$(cat /etc/hostname)" > /etc/hosts

# An empty machine id is filled at the first boot; a missing one would make systemd preset every unit again.
: > /etc/machine-id
rm -f /var/lib/dbus/machine-id /etc/ssh/ssh_host_* /var/lib/systemd/random-seed

# The build host's resolver and network are not the machine's.
if [ -e /lib/systemd/systemd-resolved ]; then
  ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
else
  : > /etc/resolv.conf
fi

# Nothing under /usr is newer than what was generated from it.
touch /etc/.updated /var/.updated

# Logs, caches and backups, some of which hold the time of the build.
find /var/log /var/cache/apt /var/lib/apt/lists /tmp /run /var/tmp -xdev -type f -delete
rm -f /var/cache/ldconfig/aux-cache /var/cache/debconf/*-old /var/lib/dpkg/*-old
rm -f /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/subuid- /etc/subgid-
