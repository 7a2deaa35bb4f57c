# Sourced by the scripts of the guest. $o is the folder for what goes back to the host.

cert=/site/cert.pem key=/site/key.pem
say() { echo "$(cut -d' ' -f1 /proc/uptime) $*"; }
die() { echo "guest: $*" >&2; exit 1; }

# await WHAT COMMAND...: until the command succeeds. Each look takes time from what is waited for.
await() {
	what=$1
	shift
	for attempt in $(seq 3600); do
		"$@" >/dev/null 2>&1 && return
		usleep 50000
	done
	die "waited in vain: $what"
}

# start NAME ARGUMENT...: starts a capture into $o/NAME.pcapng, and waits until it is ready.
start() {
	name=$1
	shift
	rm -f /tmp/ready
	tls2pcap -v -o "$o/$name.pcapng" --record "$o/$name.t2p" --ready-file /tmp/ready "$@" >"$o/$name.out" 2>"$o/$name.err" &
	capture=$!
	await "tls2pcap to be ready" ready_or_gone
	[ -s /tmp/ready ] || { wait $capture; die "tls2pcap $* ended with $?: $(cat "$o/$name.err")"; }
}
ready_or_gone() { [ -s /tmp/ready ] || ! kill -0 $capture; }

# finish NAME: waits for the end of the capture NAME, and notes its status.
finish() {
	wait $capture
	echo $? >"$o/$1.status"
	say "$1 done"
}
stop() {
	kill -INT $capture
	finish "$1"
}

# serve NAME PROGRAM ARGUMENT...: starts a server that says its port, and waits for that. Its input is
# $input, if that is set.
serve() {
	name=$1
	shift
	mkdir -p "$o/$name"
	"$@" <"${input:-/dev/null}" >"$o/$name/server.out" 2>"$o/$name/server.err" &
	server=$!
	await "the server $name" grep -q '^port' "$o/$name/server.out"
	port=$(sed -n 's/^port //p' "$o/$name/server.out")
}

# listen NAME OPERATION...: an `exchange` server.
listen() {
	name=$1
	shift
	# shellcheck disable=SC2086 # the words of $@ are operations
	serve "$name" exchange listen 127.0.0.1 0 --cert $cert --key $key "$@"
}

# connect NAME OPERATION...: an `exchange` client with transcripts and what it says in $o/NAME.
connect() {
	into=$o/$1
	shift
	exchange connect 127.0.0.1 "$port" --dir "$into" "$@" >"$into/told" 2>"$into/err"
}

# code PID: a hash of the libssl that a process has mapped, as it stands in its memory.
code() {
	range=$(grep 'r-xp.*libssl' "/proc/$1/maps" | head -n 1 | cut -d' ' -f1)
	[ -n "$range" ] || die "process $1 has mapped no libssl"
	page=$((0x${range%-*} / 4096)) after=$((0x${range#*-} / 4096))
	dd if="/proc/$1/mem" bs=4096 skip=$page count=$((after - page)) 2>/dev/null | sha256sum
}

fetch() { curl -sS --cacert $cert -o /dev/null "$@" || die "curl $*: $?"; }

# keepalive NAME FILE: an HTTP client whose connection is open and used, and that reads requests
# from descriptor 4. Sets $client.
request() { printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: %s\r\n\r\n' "$1" "$2"; }
keepalive() {
	mkfifo "/tmp/$1"
	exec 4<>"/tmp/$1"
	openssl s_client -quiet -ign_eof -CAfile $cert -connect 127.0.0.1:443 <"/tmp/$1" >"/tmp/$1.out" 2>"/tmp/$1.err" &
	client=$!
	request "$2" keep-alive >&4
	await "the first answer" grep -q "asked for $2" "/tmp/$1.out"
}

# try NAME COMMAND...: whether it succeeds or not.
try() {
	name=$1
	shift
	("$@") >"$o/$name.out" 2>"$o/$name.err" </dev/null
	echo $? >"$o/$name.status"
}
