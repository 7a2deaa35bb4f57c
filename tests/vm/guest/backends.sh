#!/bin/sh
# backends.sh "BACKEND...": captures with each back end into /out/BACKEND.
. /vm/lib.sh

# One library under two names more, each of a device of its own.
while read -r module; do insmod "/vm/ko/$module" || die "insmod $module"; done </vm/modules.overlay
libssl=$(ls /lib/*/libssl.so.3 /usr/lib/*/libssl.so.3 /lib*/libssl.so.3 2>/dev/null | head -n 1)
for n in one two; do
	mkdir -p /same/$n /dev/shm/$n/upper /dev/shm/$n/work
	mount -t overlay -o "lowerdir=${libssl%/*},upperdir=/dev/shm/$n/upper,workdir=/dev/shm/$n/work" $n /same/$n || die "overlay"
done

file=/big
for backend in $1; do
	o=/out/$backend
	mkdir -p "$o"
	nginx -p "$o" -c /site/nginx.conf 2>"$o/nginx.err" || die "nginx: $(cat "$o/nginx.err")"
	master=$(cat "$o/nginx.pid")
	worker=$(grep -l "^PPid:.$master\$" /proc/[0-9]*/status | tr -dc 0-9)
	code "$worker" >"$o/code.unprobed"

	# Every program, those included whose connection is older than the capture.
	keepalive "keep.$backend" /echo/before
	start system --all --backend "$backend"
	request /echo/after close >&4
	exec 4>&-
	wait $client
	fetch --http1.1 https://127.0.0.1/page.html
	fetch --http1.1 https://127.0.0.1/mega
	fetch --no-progress-meter --http2 --parallel "https://127.0.0.1/echo/stream/[0-9]" -o /dev/null
	fetch --http2 "https://[::1]/page.html"
	(for i in 0 1 2 3 4 5 6 7; do fetch --http1.1 https://127.0.0.1/echo/loop/$i; done) &
	loop=$!
	serve duplex answer 0 $cert $key
	duplex 127.0.0.1 "$port" 1000 "$o/duplex" >"$o/duplex/told" || die "duplex: $?"
	wait $server $loop
	# Two namespaces use the same addresses and ports at once.
	for n in 0 1; do
		mkdir -p "$o/netns$n"
		mkfifo "/tmp/netns$n.$backend"
		eval "exec $((5 + n))<>/tmp/netns$n.$backend"
		# shellcheck disable=SC2016 # expanded by the inner shell
		unshare -n sh -c '
			. /vm/lib.sh
			o=$1 n=$2
			ip link set lo up
			exchange listen 127.0.0.1 8443 --cert $cert --key $key r:10$n i w:200$n r:10$n S <"$3" >"$o/netns$n/server.out" &
			await "the server" grep -q "^port" "$o/netns$n/server.out"
			port=8443
			connect netns$n --bind 41234 w:10$n r:200$n w:10$n S || die "netns$n: $?"
			wait' sh "$o" $n "/tmp/netns$n.$backend" &
		eval "ns$n=$!"
	done
	for n in 0 1; do await "both to be open" grep -q waiting "$o/netns$n/server.out"; done
	echo >&5
	echo >&6
	exec 5>&- 6>&-
	wait $ns0 $ns1
	stop system

	# A command and its children; the servers of `exchange` are not captured.
	listen long r:3000000 w:10 r:10 S; long=$port
	listen lengths r:1 r:16384 r:64512 r:64513 w:200000 r:1 S; lengths=$port
	listen seccomp r:100 w:100 r:100 w:100 z; seccomp=$port
	listen killed r:10 w:50 z; killed=$port
	# It reads no more until the client is gone.
	mkfifo "/tmp/stuck.$backend"
	exec 7<>"/tmp/stuck.$backend"
	input=/tmp/stuck.$backend
	listen stuck r:10 w:10 i; stuck=$port
	input=
	listen first r:30 w:30 S; first=$port
	listen second r:40 w:40 S; second=$port
	# Not all of the kernels have MPTCP.
	mptcp=0
	[ ! -e /proc/sys/net/mptcp/enabled ] || mptcp=1
	listen multipath --mptcp $mptcp w:20 r:20 w:40000 S; multipath=$port
	# Room for all of it: an emulated machine may let its programs run for seconds without letting the reader.
	start command --backend "$backend" --ring-size 64 -- sh /vm/command.sh "$o" $file "$long" "$lengths" "$seccomp" "$killed" "$stuck" "$first" "$second" "$multipath" "$worker"
	finish command
	echo >&7
	exec 7>&-

	# What does not depend on the back end is captured with the first.
	if [ $file = /big ]; then
		# Two processes: nginx's worker, and a server whose reads and writes go through a BIO.
		openssl s_server -www -accept 127.0.0.1:4433 -cert $cert -key $key >/tmp/s_server 2>&1 &
		s_server=$!
		await s_server grep -q ACCEPT /tmp/s_server
		start pid --backend "$backend" -p "$worker" -p $s_server
		curl -sS --http1.0 --cacert $cert -o "$o/s_server.body" https://127.0.0.1:4433/ || die "s_server: $?"
		fetch --http1.1 https://127.0.0.1/mega
		fetch --http2 https://127.0.0.1/page.html
		code "$worker" >"$o/code.of-pid"
		code "$master" >"$o/code.beside-pid"
		stop pid
		kill $s_server

		# One user's programs.
		start user --backend "$backend" -u 1000
		fetch --http1.1 https://127.0.0.1/echo/root
		as_user="/usr/bin/setpriv --reuid 1000 --regid 1000 --clear-groups --"
		$as_user curl -sS --http2 --cacert $cert -o /dev/null https://127.0.0.1/echo/user || die "curl as a user: $?"
		fetch --http1.1 https://127.0.0.1/echo/root
		# A program that was never seen before, then a library, which speaks before it is probed and after, and again.
		# Both are on a file system that is unmounted when nobody uses them any more.
		mkdir -p /opt/new
		mount -t tmpfs none /opt/new || die "tmpfs"
		cp /usr/local/bin/exchange /opt/new/brief
		cp "$libssl" /opt/new/libssl.so.3
		mkdir -p "$o/new" "$o/again"
		listen brief r:50 w:50 S / r:50 w:50 r:60 w:60 S / r:50 w:50 S
		chmod 777 "$o/brief" "$o/new" "$o/again"
		$as_user /opt/new/brief connect 127.0.0.1 "$port" --dir "$o/brief" w:50 r:50 S >"$o/brief/told" || die "brief: $?"
		mkfifo /tmp/new
		exec 8<>/tmp/new
		LD_LIBRARY_PATH=/opt/new $as_user exchange connect 127.0.0.1 "$port" --dir "$o/new" w:50 i r:50 w:60 r:60 S </tmp/new >"$o/new/told" &
		new=$!
		await "the new library to be probed" grep -q 'probed: /opt/new/libssl.so.3' "$o/user.err"
		await "the first write" grep -q waiting "$o/new/told"
		echo >&8
		wait $new || die "new: $?"
		exec 8>&-
		LD_LIBRARY_PATH=/opt/new $as_user exchange connect 127.0.0.1 "$port" --dir "$o/again" w:50 r:50 S >"$o/again/told" || die "again: $?"
		await "the file system to be free" umount /opt/new
		stop user
	fi

	nginx -p "$o" -c /site/nginx.conf -s stop 2>/dev/null
	await "nginx to end" test ! -e "$o/nginx.pid"
	file=/mega # once is enough of the long one, which takes its time
done
