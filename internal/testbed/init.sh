# The first process of a host. It builds the host's file system, says "ready",
# and then lives until its standard input closes. bash, because it also reaps
# the orphans of the host while it waits, which dash does not.
set -eu
umask 022

fresh() { mount -t tmpfs -o "mode=${2:-755}" testbed "$1"; }

mount --make-rprivate /

# /etc is a copy: small, and the only part of the machine's own set-up that the
# programs in a host need to see.
fresh /mnt
cp -a /etc/. /mnt/
mount --move /mnt /etc

if [ -n "$TESTBED_VAR" ]; then
	mount --bind "$TESTBED_VAR" /var
else
	fresh /var
fi
fresh /run
fresh /tmp 1777
fresh /usr/local/bin
fresh /usr/local/sbin

# Own devices: in the machine's /dev a daemon would find the machine's syslog.
fresh /mnt
mkdir /mnt/net /mnt/pts /mnt/shm
mknod -m 666 /mnt/null c 1 3
mknod -m 666 /mnt/zero c 1 5
mknod -m 666 /mnt/full c 1 7
mknod -m 666 /mnt/random c 1 8
mknod -m 666 /mnt/urandom c 1 9
mknod -m 666 /mnt/tty c 5 0
mknod -m 600 /mnt/net/tun c 10 200
ln -s /proc/self/fd /mnt/fd
ln -s fd/0 /mnt/stdin
ln -s fd/1 /mnt/stdout
ln -s fd/2 /mnt/stderr
ln -s pts/ptmx /mnt/ptmx
mount --move /mnt /dev
mount -t devpts -o newinstance,ptmxmode=666 devpts /dev/pts
fresh /dev/shm 1777
mount -t proc proc /proc
mount -t sysfs sysfs /sys

# What is left of the machine is for reading only.
mount -o remount,bind,ro /

echo "$TESTBED_HOSTNAME" >/proc/sys/kernel/hostname
echo "$TESTBED_HOSTNAME" >/etc/mailname
echo "${TESTBED_HOSTNAME%%.*}" >/etc/hostname
ip link set lo up

# No DNS: what is not in /etc/hosts does not exist. An empty resolv.conf means
# 127.0.0.1, where nobody listens, so a stray query fails at once.
rm -f /etc/resolv.conf /etc/nsswitch.conf /etc/hosts
echo '# no resolver' >/etc/resolv.conf
printf '%s\n' 'passwd: files' 'group: files' 'shadow: files' 'hosts: files' \
	'networks: files' 'protocols: files' 'services: files' >/etc/nsswitch.conf
printf '127.0.0.1 localhost\n::1 localhost\n' >/etc/hosts

account() { # name id home
	grep -q "^$1:" /etc/group || echo "$1:x:$2:" >>/etc/group
	grep -q "^$1:" /etc/passwd || echo "$1:x:$2:$2::$3:/usr/sbin/nologin" >>/etc/passwd
}
account etrnd 64366 /var/lib/etrnd
account etrn-milter 64367 /nonexistent
account vmail 64368 /var/mail
grep -q '^etrnd-sockets:' /etc/group || echo 'etrnd-sockets:x:64369:' >>/etc/group

mkdir -p /var/lib /var/spool /var/log /var/cache /run/lock \
	/etc/ppp/ip-up.d /etc/ppp/ip-down.d
mkdir -p -m 1777 /var/tmp
ln -sfn /run /var/run
ln -sfn /run/lock /var/lock
install -d -m 2775 -g mail /var/mail
install -d -m 755 -o postfix /var/lib/postfix
# Postfix would make the rest of its queue directory itself, in a slow check of
# everything that "quick-start" spares it once; later starts do check.
cd /var/spool
install -d -m 755 postfix postfix/pid
cd postfix
install -d -m 700 -o postfix -g root active bounce corrupt defer deferred \
	flush hold incoming private saved trace
install -d -m 1730 -o postfix -g postdrop maildrop
install -d -m 2710 -o postfix -g postdrop public
: >quick-start
cd /
install -d -m 755 /etc/etrnd
install -d -m 755 -o etrnd -g etrnd /run/etrnd /var/lib/etrnd
# As the package's tmpfiles make them.
install -d -m 1771 -g etrnd-sockets /var/spool/postfix/etrnd
install -d -m 710 -o etrn-milter -g postfix /var/spool/postfix/etrn-milter
ln -sfn ../etrn-milter/milter.sock /var/spool/postfix/etrnd/milter.sock
chgrp etrnd /etc/etrnd
chmod g+s /etc/etrnd

echo ready
exec >/dev/null 2>&1
cd /
while read -r _; do :; done
