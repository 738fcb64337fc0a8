#!/bin/sh
# packaging/boot.sh DIR CGROUP
#
# The first process of a machine for the tests of the units: it makes a file
# system of its own over this machine's, of which nothing is changed, and becomes
# systemd. The caller has made the namespaces (mount, process, network, UTS, IPC).
# DIR has "upper" (files that the machine has beside this one's); CGROUP is an
# empty directory of the unified hierarchy, for the units' processes.
set -eu
dir=$1 cgroup=$2

# The root of a cgroup namespace is where its first process is.
if [ -z "${BOOT_INSIDE:-}" ]; then
	echo $$ >"$cgroup/cgroup.procs"
	BOOT_INSIDE=yes exec unshare --cgroup "$0" "$dir" "$cgroup"
fi

mount --make-rprivate /
# In memory: what is in the machine is gone with it, and an overlay cannot be
# written to another overlay, which this machine's own files may lie on.
mkdir "$dir/memory"
mount -t tmpfs -o mode=755 memory "$dir/memory"
cp -a "$dir/upper" "$dir/memory/upper"
cd "$dir/memory"
mkdir work root
mount -t overlay machine -o lowerdir=/,upperdir=upper,workdir=work root
cd root
mount -t proc proc proc
echo hub.example.net >/proc/sys/kernel/hostname
# The settings of the kernel are not this machine's.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 dev dev
while read -r name major minor; do
	mknod -m 666 "dev/$name" c "$major" "$minor"
done <<-END
	null 1 3
	zero 1 5
	full 1 7
	random 1 8
	urandom 1 9
	tty 5 0
END
mkdir dev/pts dev/shm
ln -s /proc/self/fd dev/fd
ln -s pts/ptmx dev/ptmx
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
# Nothing that this machine runs, and nothing that a machine needs which is one.
rm -rf etc/systemd/system
mkdir -p etc/systemd/system/multi-user.target.wants var/log/journal
for unit in systemd-logind systemd-user-sessions getty@ console-getty systemd-sysctl systemd-binfmt \
	systemd-modules-load systemd-remount-fs systemd-udevd systemd-udev-trigger systemd-firstboot; do
	ln -s /dev/null "etc/systemd/system/$unit.service"
done
for unit in dev-hugepages dev-mqueue sys-kernel-config sys-kernel-debug sys-kernel-tracing \
	sys-fs-fuse-connections; do
	ln -s /dev/null "etc/systemd/system/$unit.mount"
done
for unit in network-online.target proc-sys-fs-binfmt_misc.automount; do
	ln -s /dev/null "etc/systemd/system/$unit"
done
ip link set lo up
if [ -x usr/local/sbin/prepare ]; then
	chroot . /usr/local/sbin/prepare || {
		cat var/log/setup
		exit 1
	}
fi
mkdir -p old
pivot_root . old
umount -l /old
exec env -i container=etrnd-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
	/lib/systemd/systemd --unit=multi-user.target --log-target=journal --show-status=0
