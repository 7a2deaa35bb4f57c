#!/bin/sh
# environments.sh BACKEND...: where tls2pcap must refuse, and with how few rights it works. For each
# NAME: /out/NAME.status, what it said in /out/NAME.err, and the file, if there is one, in
# /out/NAME.pcapng. The BACKENDs are those that the kernel lacks.
. /vm/lib.sh
o=/out
mkdir -m 1777 /tmp/open

for backend; do try "no-$backend" tls2pcap --backend "$backend" -o /tmp/x.pcapng -- true; done
try no-btf unshare -m sh -c 'mount -t tmpfs none /sys/kernel/btf && exec tls2pcap -o /tmp/x.pcapng -- true'
# rights CAPABILITIES COMMAND...: as a user with these alone.
rights() {
	caps=$1
	shift
	exec /usr/bin/setpriv --reuid 1000 --regid 1000 --clear-groups --bounding-set="-all$caps" \
		--inh-caps="-all$caps" --ambient-caps="-all$caps" -- "$@"
}
try no-rights rights '' tls2pcap -o /tmp/open/x.pcapng -- true

# It loads all that a capture loads when it needs it.
try doctor tls2pcap doctor --json -p $$

# The least that a command, and a process of the same user, can be captured with.
nginx -p /out -c /site/nginx.conf 2>/tmp/nginx.err || die "nginx: $(cat /tmp/nginx.err)"
few=,+cap_38,+cap_39 # CAP_PERFMON, CAP_BPF
# One by one (-p, and all before 6.6) uprobes are perf events, for which Debian's kernels want
# CAP_SYS_ADMIN; before 5.11 maps count as locked memory, which wants CAP_SYS_RESOURCE.
more=$few,+cap_21
case $(uname -r) in
5.*) more=$more,+cap_24 few=$more,+cap_24 ;;
6.1.*) few=$more ;;
esac
try few-command rights $few tls2pcap --backend fentry -o /tmp/open/few-command.pcapng -- \
	curl -sS --http1.1 --cacert $cert -o /dev/null https://127.0.0.1/page.html
cp $cert $key /tmp/open
chmod 644 /tmp/open/*.pem
(rights '' openssl s_server -www -accept 127.0.0.1:4433 -cert /tmp/open/cert.pem -key /tmp/open/key.pem) >/tmp/s_server 2>&1 &
s_server=$!
await s_server grep -q ACCEPT /tmp/s_server
few_pid() {
	(rights $more tls2pcap --backend fentry -o /tmp/open/few-pid.pcapng --ready-file /tmp/open/ready -p $s_server) &
	capture=$!
	await "tls2pcap to be ready" few_ready_or_gone
	if [ -s /tmp/open/ready ]; then
		curl -sS --http1.0 --cacert $cert -o /dev/null https://127.0.0.1:4433/
		kill -INT $capture
	fi
	wait $capture
}
few_ready_or_gone() { [ -s /tmp/open/ready ] || ! kill -0 $capture; }
try few-pid few_pid
cp /tmp/open/few-*.pcapng /out || true
