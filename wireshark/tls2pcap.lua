-- Wireshark plugin of tls2pcap: fields on every packet that name its process (tls2pcap.pid, tls2pcap.sni,
-- ...), and Tools > tls2pcap with a table of processes and connections.
--
-- For Wireshark 4.0 or later (Lua 5.2 to 5.4). `tls2pcap wireshark install` puts it in place.
--
-- The comment on a connection's SYN says what is known about it; later comments add what is learned
-- afterwards: `tls2pcap=1 conn=1 pid=2904 comm=curl ...`, values %-escaped.
--
-- Only tls2pcap's own files pay for this. A field extractor, or a registered post-dissector, would make
-- Wireshark build a protocol tree of every packet of every file. So nothing is hooked when this is loaded. When
-- a file is opened (`init`), its beginning is checked, and only if it comes from tls2pcap, a dissector is put
-- before those of raw IP and Ethernet. Fields are made only when they are used; only then are comments needed,
-- and they are read from the file itself. If it cannot be read (a pipe, a compressed file), a listener asks
-- Wireshark for them, which makes loading slower (benches/wireshark), because Wireshark then builds a tree of
-- each packet. Bytes are counted when the table is opened.

local proto = Proto("tls2pcap", "Captured process (tls2pcap)")

local field = {
	conn = ProtoField.uint32("tls2pcap.conn", "Connection", base.DEC, nil, nil, "Number of the connection in its capture"),
	pid = ProtoField.uint32("tls2pcap.pid", "Process id"),
	tid = ProtoField.uint32("tls2pcap.tid", "Thread id", base.DEC, nil, nil, "The thread that opened the connection"),
	comm = ProtoField.string("tls2pcap.comm", "Name"),
	exe = ProtoField.string("tls2pcap.exe", "Program"),
	uid = ProtoField.uint32("tls2pcap.uid", "User id"),
	container = ProtoField.string("tls2pcap.container", "Container"),
	fd = ProtoField.uint32("tls2pcap.fd", "Descriptor"),
	library = ProtoField.string("tls2pcap.library", "TLS library"),
	role = ProtoField.string("tls2pcap.role", "Role of the process"),
	server_port = ProtoField.uint16("tls2pcap.server_port", "True server port"),
	local_ = ProtoField.string("tls2pcap.local", "True local address"),
	remote = ProtoField.string("tls2pcap.remote", "True remote address"),
	tuple = ProtoField.string("tls2pcap.tuple", "How the addresses were learned"),
	sni = ProtoField.string("tls2pcap.sni", "Server name"),
	alpn = ProtoField.string("tls2pcap.alpn", "ALPN"),
	peer_pid = ProtoField.uint32("tls2pcap.peer_pid", "Process id at the other end"),
	peer_comm = ProtoField.string("tls2pcap.peer_comm", "Process at the other end"),
	lost = ProtoField.uint64("tls2pcap.lost", "Bytes missing from here on", base.DEC, nil, nil, "0: unknown"),
	lost_reason = ProtoField.string("tls2pcap.lost.reason", "Reason"),
	lost_total = ProtoField.uint64("tls2pcap.lost.total", "Bytes missing in the connection", base.DEC, nil, nil,
		"0: unknown"),
	synthetic = ProtoField.string("tls2pcap.synthetic", "Synthetic bytes"),
	redacted = ProtoField.string("tls2pcap.redacted", "Replaced here", base.NONE, "Kinds of the values that were replaced"),
	late = ProtoField.double("tls2pcap.late", "Seconds by which this packet is late in the file"),
}
do
	local list = {}
	for _, f in pairs(field) do list[#list + 1] = f end
	proto.fields = list
end

local AUTO, ALWAYS, NEVER = 0, 1, 2
proto.prefs.fields = Pref.enum("Show the fields", AUTO,
	"Automatic checks the beginning of a file, which works on Linux unless another program compressed it",
	{ { 1, "in files of tls2pcap", AUTO }, { 2, "in all files", ALWAYS }, { 3, "never", NEVER } }, false)

-- In this order below the packet: key of the comment, field, whether it is a number.
local SHOWN = {
	{ "conn", field.conn, true }, { "pid", field.pid, true }, { "tid", field.tid, true },
	{ "comm", field.comm }, { "exe", field.exe }, { "uid", field.uid, true },
	{ "container", field.container }, { "fd", field.fd, true }, { "library", field.library },
	{ "role", field.role }, { "server_port", field.server_port, true }, { "local", field.local_ },
	{ "remote", field.remote }, { "tuple", field.tuple }, { "sni", field.sni }, { "alpn", field.alpn },
	{ "peer_pid", field.peer_pid, true }, { "peer_comm", field.peer_comm },
}
local byte, sub, select, pcall, all_field_infos = string.byte, string.sub, select, pcall, all_field_infos
local NOTHING = {}
local RAW_IP, ETHERNET = (wtap_encaps or wtap).RAW_IP, (wtap_encaps or wtap).ETHERNET
local ETHERNET_HEADER = 14

-- Of the file that is open -------------------------------------------------------------------------

local connections -- all that were seen, in order
local current -- by addresses and ports, of both directions: the one that has them now
local of_frame -- by number of the packet: its connection
local notes -- by number of the packet: what its comments say of itself
local index -- how far the file was read, if it can be; see `advance`

local function forget()
	if index then index.file:close() end
	connections, current, of_frame, notes, index = {}, {}, {}, {}, nil
end
forget()

local function unescape(value)
	return (value:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

-- A whole number from 0 to `max`; nil for all else, of which a field would make an error.
local function whole(text, max)
	local number = text and text:match("^%d+$") and tonumber(text)
	return number and number <= max and number or nil
end
local UINT16, UINT32, LENGTH = 65535, 4294967295, 9007199254740992

local function seconds(text)
	return text and text:match("^%d+%.%d+$") and tonumber(text) or nil
end

-- The pairs of a comment; nil if it is not one of ours.
local function parse(comment)
	local rest = comment:match("^tls2pcap=1 (.*)")
	if not rest then return nil end
	local pairs_ = {}
	for key, value in rest:gmatch("([a-z0-9_]+)=(%S*)") do pairs_[key] = unescape(value) end
	return pairs_
end

local function port_of(address)
	return whole(address and address:match(":(%d+)$"), UINT16)
end

-- Addresses and ports as they stand in the packet whose IP header is at text[at] and has `len` bytes with all that
-- follows; nil if this is not TCP, written as tls2pcap writes it: without options of IPv4 and extension headers of IPv6.
local function ends_of(text, at, len)
	if len < 40 then return nil end
	local first = byte(text, at)
	if first == 0x45 then
		if byte(text, at + 9) == 6 then return sub(text, at + 12, at + 23) end
	elseif first >= 0x60 and first < 0x70 and len >= 60 and byte(text, at + 6) == 6 then
		return sub(text, at + 8, at + 43)
	end
	return nil
end

-- The same of a packet that is dissected, and its headers. IP begins at `at`. Each call into Wireshark costs as much
-- as all the rest, so it is one.
local function ends(tvb, at)
	local len = tvb:len() - at
	if len < 40 then return nil end
	local ip = tvb:raw(at, len < 60 and 40 or 60)
	return ends_of(ip, 1, len), ip
end

-- The same of the other direction.
local function turned(key)
	local size = (#key - 4) / 2
	return sub(key, size + 1, 2 * size) .. sub(key, 1, size) .. sub(key, -2) .. sub(key, -4, -3)
end

-- Bytes of TCP's payload, by the lengths in the headers.
local function payload_of(ip)
	local head, total = 20, byte(ip, 3) * 256 + byte(ip, 4)
	if byte(ip, 1) ~= 0x45 then head, total = 40, 40 + byte(ip, 5) * 256 + byte(ip, 6) end
	local words = byte(ip, head + 13)
	return words and math.max(0, total - head - math.floor(words / 16) * 4) or 0
end

-- What a process has to do with a connection. `known`: what is known of it.
local function share_of(c, pid, known)
	local share = c.by_pid[pid]
	if not share then
		share = { known = known, sent = 0, received = 0, requests = 0 }
		c.by_pid[pid] = share
	end
	return share
end

local function new_connection(known, key)
	local c = { known = known, key = key, turned = turned(key), by_pid = {}, sent = 0, received = 0, requests = 0 }
	connections[#connections + 1] = c
	return c
end

-- Adds what a comment says to the connection, or begins a new one.
local function learn(c, said, key)
	local conn, pid = whole(said.conn, UINT32), whole(said.pid, UINT32)
	-- In files that were merged, numbers come again.
	if pid and (not c or c.known.pid and (c.known.conn ~= conn or c.known.pid ~= pid)) then c = new_connection({}, key) end
	if not c then return nil end
	for _, shown in ipairs(SHOWN) do
		local key = shown[1]
		local value = said[key]
		if shown[3] then value = whole(value, UINT32) end
		if value then c.known[key] = value end
	end
	if said.role then
		c.known.server_port = port_of(said.role == "client" and said.remote or said["local"])
	end
	return c
end

-- Names of interfaces: command name and pid, taken apart.
local interfaces = setmetatable({}, { __index = function(known, name)
	local comm, pid = name:match("^(.*)%[(%d+)%]$")
	local facts = { comm = comm, pid = whole(pid, UINT32) }
	known[name] = facts
	return facts
end })

-- Of all that the frame's tree has: comments, if there are any, and the interface's name.
local function frame_facts(...)
	local comments, interface
	for i = 1, select("#", ...) do
		local info = select(i, ...)
		local name = info.name
		if name == "frame.interface_name" then
			interface = info.value
		elseif name == "frame.comment" then
			comments = comments or {}
			comments[#comments + 1] = info.value
		end
	end
	return comments, interface
end

local function frame() return frame_facts(all_field_infos()) end

-- What a packet says of its connection; IP begins at `at`.
local function take(number, key, at, comments, interface)
	local c = current[key]
	local before = c
	local note
	for _, comment in ipairs(comments or NOTHING) do
		local said = parse(comment)
		if said then
			c = learn(c, said, key)
			if c then
				local pid = whole(said.caller_pid, UINT32)
				if pid and pid ~= c.known.pid then
					share_of(c, pid, { pid = pid, comm = said.caller_comm, exe = said.caller_exe })
				end
			end
			if said.missing or said.synthetic or said.late or said.redacted then
				note = note or {}
				note.synthetic = said.synthetic or note.synthetic
				note.redacted = note.redacted and said.redacted and note.redacted .. "," .. said.redacted
					or said.redacted or note.redacted
				note.late = seconds(said.late) or note.late
				if said.missing then
					local lost = whole(said.missing, LENGTH) or 0
					note.lost = (note.lost or 0) + lost
					note.reason = said.reason
					if c then c.lost = (c.lost or 0) + lost end
				end
			end
		end
	end
	-- The interface names the process whose call the packet is, also where the SYN was cut off the file.
	local caller = interfaces[interface or ""]
	local pid = caller.pid
	if not c then
		if not pid then return end
		c = new_connection({ comm = caller.comm, pid = pid }, key)
	end
	local own = c.known.pid
	if pid and own and pid ~= own then
		note = note or {}
		note.caller = share_of(c, pid, caller).known
	end
	if c ~= before then current[key], current[c.key == key and c.turned or c.key] = c, c end
	c.at = at
	of_frame[number] = c
	if note then notes[number] = note end
	return c
end

-- The first time that the listener's tree shows a packet.
local function first_look(tvb, number, at)
	-- Without a protocol tree there is nothing to ask.
	local there, comments, interface = pcall(frame)
	local key = there and ends(tvb, at)
	return key and take(number, key, at, comments, interface)
end

-- The file itself ---------------------------------------------------------------------------------

local CHUNK = 1048576
local BLOCK_MAX = 16777216 -- Wireshark's own limit
local SECTION_HEADER, INTERFACE, ENHANCED_PACKET = 0x0a0d0d0a, 1, 6
-- The others that Wireshark numbers: packets of two older kinds, entries of a journal.
local NUMBERED = { [2] = true, [3] = true, [9] = true }
local IP_BEGINS = { [1] = ETHERNET_HEADER, [101] = 0 }
local COMMENT, IF_NAME, IF_TSRESOL = 1, 2, 9

local function u16(text, at)
	local a, b = byte(text, at, at + 1)
	return a + b * 256
end

local function u32(text, at)
	local a, b, c, d = byte(text, at, at + 3)
	return a + b * 256 + c * 65536 + d * 16777216
end

-- Calls `hear` with code and value of each option from `at` on, as far as they are whole.
local function options(text, at, last, hear)
	while at + 3 <= last do
		local code, len = u16(text, at), u16(text, at + 2)
		if code == 0 or at + 3 + len > last then return end
		hear(code, sub(text, at + 4, at + 3 + len))
		at = at + 4 + len + -len % 4
	end
end

-- Of an interface's description: where IP begins in its packets, its name, and ticks of its clock per second.
local function interface_of(text, at, last)
	local found = { at = IP_BEGINS[u16(text, at + 8)], ticks = 1000000 }
	options(text, at + 16, last, function(code, value)
		if code == IF_NAME then
			found.name = value
		elseif code == IF_TSRESOL and #value == 1 then
			local power = byte(value)
			found.ticks = power < 128 and 10 ^ power or 2 ^ (power - 128)
		end
	end)
	return found
end

-- Headers that are the same in packets of one connection only, unless that connection comes again.
local HEADERS = 40

local comments_found -- of the packet that is being read
local function hear_comment(code, value)
	if code == COMMENT then
		comments_found = comments_found or {}
		comments_found[#comments_found + 1] = value
	end
end

-- The packet in text[at, last]; the block has its size at both ends.
local function read_packet(text, at, last)
	local from = index.interfaces[u32(text, at + 8)]
	local begins, len = from and from.at, u32(text, at + 20)
	if not begins or at + 27 + len > last then return end
	local key = ends_of(text, at + 28 + begins, len - begins)
	if not key then return end
	index.keys[index.count] = key
	comments_found = nil
	local at_options = at + 28 + len + -len % 4
	if at_options < last then options(text, at_options, last, hear_comment) end
	take(index.count, key, begins, comments_found, from.name)
	if index.same then
		local headers = sub(text, at + 28 + begins, at + 27 + begins + HEADERS)
		local time = (u32(text, at + 12) * 4294967296 + u32(text, at + 16)) / from.ticks
		local same = index.same[headers] or {}
		index.same[headers] = same
		same[#same + 1] = { number = index.count, time = time }
	end
end

-- Reads the next blocks of the file; whether there were any.
local function read_on()
	local asked = index.size
	local text = index.file:seek("set", index.offset) and index.file:read(asked)
	if not text then return false end
	local at, size = 1, nil
	while at + 11 <= #text do
		local kind = u32(text, at)
		size = u32(text, at + 4)
		-- Wireshark reads no further either.
		index.over = size < 12 or size > BLOCK_MAX
		if index.over then break end
		if at + size - 1 > #text then break end
		local last = at + size - 5
		if kind == ENHANCED_PACKET then
			index.count = index.count + 1
			if size >= 32 then read_packet(text, at, last) end
		elseif kind == INTERFACE and size >= 20 then
			index.interfaces[index.interface] = interface_of(text, at, last)
			index.interface = index.interface + 1
		elseif kind == SECTION_HEADER then
			index.interfaces, index.interface = {}, 0
		elseif NUMBERED[kind] then
			index.count = index.count + 1
		end
		at, size = at + size, nil
	end
	index.offset = index.offset + at - 1
	-- The next block may be larger than what is read at once.
	index.size = math.max(CHUNK, at == 1 and size or 0)
	return not index.over and (at > 1 or size ~= nil and size > asked)
end

-- Reads as far as there is something to read, since what is known of a connection may come late; the file may still be
-- written.
local function advance()
	while not index.over and read_on() do end
end

-- Begins to read the file. Wireshark closes one of its descriptors when it has read it once, so this has its own, until
-- the next file is opened.
local function read_from(path)
	local file = io.open(path, "rb")
	forget()
	index = file and { file = file, offset = 0, size = CHUNK, count = 0, interfaces = {}, interface = 0, keys = {} }
end

-- The number in the file of a packet that Wireshark numbers otherwise, since the file was opened with a read filter.
local function number_in_file(ip, time)
	if not index.same then
		-- From the beginning.
		connections, current, of_frame, notes = {}, {}, {}, {}
		index.offset, index.count, index.same, index.over = 0, 0, {}, false
	end
	advance()
	local best, number = math.huge, nil
	for _, packet in ipairs(index.same[sub(ip, 1, HEADERS)] or NOTHING) do
		local distance = math.abs(packet.time - time)
		if distance < best then best, number = distance, packet.number end
	end
	return number
end

-- Connection and notes of a packet, of which somebody wants to know; IP begins at `at`.
local function find(tvb, pinfo, at)
	local number = pinfo.number
	if index then
		local key, ip = ends(tvb, at)
		if not key then return nil end
		if number > index.count then advance() end
		if index.same or index.keys[number] ~= key then number = number_in_file(ip, pinfo.abs_ts) end
	end
	return of_frame[number], notes[number]
end

local function who(known)
	return string.format("%s[%s]", known.comm or "?", known.pid or "?")
end

local function add_number(tree, f, number)
	return tree:add(f, f == field.lost and UInt64(number) or f == field.lost_total and UInt64(number) or number)
end

-- Of these each process has its own.
local OF_PROCESS = { pid = true, tid = true, comm = true, exe = true, uid = true, container = true, fd = true }

local function show(tree, c, note)
	local known, caller = c.known, note and note.caller
	local item = tree:add(proto)
	local name = known.sni or known.remote
	item:set_text("Captured process: " .. who(caller or known) .. (name and ", " .. (known.role or "end") .. " of " .. name or ""))
	item:set_generated()
	for _, shown in ipairs(SHOWN) do
		local key = shown[1]
		local of = caller and OF_PROCESS[key] and caller or known
		local value = of[key]
		if value then item:add(shown[2], value):set_generated() end
	end
	if c.lost then
		local total = add_number(item, field.lost_total, c.lost):set_generated()
		if c.lost == 0 then total:append_text(" (unknown how many)") end
	end
	if not note then return end
	if note.lost then
		local lost = add_number(item, field.lost, note.lost):set_generated()
		if note.lost == 0 then lost:append_text(" (unknown how many)") end
		if note.reason then item:add(field.lost_reason, note.reason):set_generated() end
	end
	if note.synthetic then item:add(field.synthetic, note.synthetic):set_generated() end
	if note.redacted then item:add(field.redacted, note.redacted):set_generated() end
	if note.late then item:add(field.late, note.late):set_generated() end
end

local encapsulations = DissectorTable.get("wtap_encap")
local raw, ethernet = encapsulations:get_dissector(RAW_IP), encapsulations:get_dissector(ETHERNET)

local listener -- where the file cannot be read
local own -- this dissector, to ask whether anybody wants its fields
local call = raw.call

-- Shows whose packet it is, and hands it on to who would have had it. IP begins at `at`.
local function dissect(tvb, pinfo, tree, at, next_)
	-- Two-pass reading comes here first without a protocol tree, so "seen" is not pinfo.visited.
	if listener and not of_frame[pinfo.number] then first_look(tvb, pinfo.number, at) end
	-- Neither looked at nor asked for by a filter or a column: then nothing has to be made.
	if tree:referenced(own) then
		local c, note = find(tvb, pinfo, at)
		if c then show(tree, c, note) end
	end
	-- Where a packet is cut off, Wireshark has shown so before the error comes here.
	pcall(call, next_, tvb, pinfo, tree)
end

function proto.dissector(tvb, pinfo, tree)
	return dissect(tvb, pinfo, tree, 0, raw)
end

-- A packet does not tell which of the two it is, so there is one for each.
local below = Proto("tls2pcap_ethernet", "Captured process (tls2pcap), Ethernet")

function below.dissector(tvb, pinfo, tree)
	return dissect(tvb, pinfo, tree, ETHERNET_HEADER, ethernet)
end

own = Dissector.get("tls2pcap")

-- Whether it is a file of ours --------------------------------------------------------------------

local LOOK_AT = 262144
local MAGIC, LITTLE_ENDIAN = "\n\r\r\n", "\x4d\x3c\x2b\x1a"

local function contents(path, len)
	local file = io.open(path, "rb")
	if not file then return nil end
	local text = file:read(len)
	file:close()
	return text
end

-- true, false, or nil if that is no capture file; and whether its blocks can be read here.
local function is_ours(path)
	local magic = contents(path, 4)
	if magic == MAGIC then
		local text = contents(path, LOOK_AT) or ""
		-- The application of the section header, or, where another tool wrote that, a first comment.
		local is_it = text:sub(1, 4096):find("tls2pcap", 1, true) ~= nil or text:find("tls2pcap=1 conn=", 1, true) ~= nil
		return is_it, text:sub(9, 12) == LITTLE_ENDIAN
	elseif magic == "\xd4\xc3\xb2\xa1" or magic == "\xa1\xb2\xc3\xd4" or magic == "\x4d\x3c\xb2\xa1"
		or magic == "\xa1\xb2\x3c\x4d" then
		return false
	elseif magic and magic:sub(1, 2) == "\x1f\x8b" then
		-- What tls2pcap compresses says so in the comment of its gzip header.
		return (contents(path, 64) or ""):find("tls2pcap", 1, true) ~= nil
	end
	return nil
end

-- Whether standard input is a pipe: what is read from it cannot be looked at. Pipes are on a file
-- system that is mounted nowhere, and a socket could be written to.
local function reads_a_pipe()
	local info = contents("/proc/self/fdinfo/0", 256) or ""
	local flags, mount = info:match("flags:%s*(%d+)"), info:match("mnt_id:%s*(%d+)")
	if not info:match("pos:%s*0%s") or not flags or not mount or tonumber(flags:sub(-1)) % 4 ~= 0 then return false end
	local mounts = contents("/proc/self/mountinfo", 1048576)
	return mounts ~= nil and ("\n" .. mounts):find("\n" .. mount .. " ", 1, true) == nil
end

-- Whether the file that Wireshark has just opened is ours, and its path if it can be read here. No function says which
-- one that is, but Linux shows it: it is open, and its beginning has been read.
local function opened_ours()
	local open, descriptors = pcall(Dir.open, "/proc/self/fdinfo")
	if not open or not descriptors then return false end
	local found, path
	for name in descriptors do
		local position = (contents("/proc/self/fdinfo/" .. name, 256) or ""):match("pos:%s*(%d+)")
		-- A pipe has no position, and must not be read from.
		if position and tonumber(position) > 0 then
			local answer, readable = is_ours("/proc/self/fd/" .. name)
			if answer then
				found, path = true, readable and "/proc/self/fd/" .. name or nil
				break
			elseif answer == false then
				found = false
			end
		end
	end
	descriptors:close()
	if found == nil then return reads_a_pipe() end
	return found, path
end

local function listen(wanted)
	if wanted and not listener then
		-- Its filter is what makes Wireshark keep these fields of each packet.
		listener = Listener.new("frame", "frame.comment || frame.interface_name")
	elseif listener and not wanted then
		listener:remove()
		listener = nil
	end
end

local hooked = false

local function hook(wanted)
	if wanted == hooked then return end
	hooked = wanted
	if wanted then
		encapsulations:add(RAW_IP, proto)
		encapsulations:add(ETHERNET, below)
	else
		encapsulations:remove(RAW_IP, proto)
		encapsulations:add(RAW_IP, raw)
		encapsulations:remove(ETHERNET, below)
		encapsulations:add(ETHERNET, ethernet)
	end
end

function proto.init()
	forget()
	local choice = proto.prefs.fields
	local ours, path = false, nil
	if choice ~= NEVER then ours, path = opened_ours() end
	local wanted = choice == ALWAYS or choice == AUTO and ours
	if wanted and path then read_from(path) end
	hook(wanted)
	listen(wanted and not index)
end

-- The menu ----------------------------------------------------------------------------------------

if not gui_enabled() then return end

local function show_only(pid)
	set_filter("tls2pcap.pid == " .. pid)
	apply_filter()
end

local function lost_text(c)
	return c.lost == 0 and "unknown" or c.lost or 0
end

local NUMBERS = { ["No."] = true, User = true, Connections = true, Requests = true, Sent = true, Received = true, Lost = true }

-- Columns side by side; the first line is the head. Numbers go to the right.
local function table_text(rows)
	local widths = {}
	for _, row in ipairs(rows) do
		for i, cell in ipairs(row) do
			local _, letters = tostring(cell):gsub("[^\x80-\xbf]", "")
			widths[i] = math.max(widths[i] or 0, letters)
		end
	end
	local lines = {}
	for _, row in ipairs(rows) do
		local cells = {}
		for i, cell in ipairs(row) do
			local text = tostring(cell)
			local _, letters = text:gsub("[^\x80-\xbf]", "")
			local space = string.rep(" ", widths[i] - letters)
			cells[i] = NUMBERS[rows[1][i]] and space .. text or text .. space
		end
		lines[#lines + 1] = (table.concat(cells, "  "):gsub("%s+$", ""))
	end
	return table.concat(lines, "\n") .. "\n"
end

-- The processes, most bytes first.
local function processes()
	local by_pid, list = {}, {}
	for _, c in ipairs(connections) do
		for pid, share in pairs(c.by_pid) do
			local p = by_pid[pid]
			if not p then
				p = { known = share.known, connections = 0, sent = 0, received = 0, requests = 0 }
				by_pid[pid] = p
				list[#list + 1] = p
			elseif share.known.uid then
				p.known = share.known
			end
			p.connections = p.connections + 1
			for _, key in ipairs({ "sent", "received", "requests" }) do p[key] = p[key] + share[key] end
			if c.lost and share.known == c.known then p.lost = (p.lost or 0) + c.lost end
		end
	end
	table.sort(list, function(x, y)
		local a, b = x.sent + x.received, y.sent + y.received
		return a > b or a == b and (x.known.pid or 0) < (y.known.pid or 0)
	end)
	return list
end

-- Longer lists are cut: a text window is no place for them.
local ROWS_MAX = 1000

local function report(list)
	local rows = { { "Process", "User", "Connections", "Requests", "Sent", "Received", "Lost", "Program" } }
	for i = 1, math.min(#list, ROWS_MAX) do
		local p = list[i]
		rows[i + 1] = { who(p.known), p.known.uid or "", p.connections, p.requests, p.sent, p.received, lost_text(p),
			p.known.exe or "" }
	end
	local text = "Processes: " .. #list .. "\n\n" .. table_text(rows)
	rows = { { "No.", "Process", "Role", "Server", "Requests", "Sent", "Received", "Lost", "ALPN" } }
	for i = 1, math.min(#connections, ROWS_MAX) do
		local c = connections[i]
		local k = c.known
		local server = k.sni or (k.role == "client" and k.remote or k["local"]) or ""
		if k.sni and k.server_port then server = server .. ":" .. k.server_port end
		rows[i + 1] = { k.conn or i, who(k), k.role or "", server, c.requests, c.sent, c.received, lost_text(c),
			k.alpn or "" }
	end
	text = text .. "\n\nConnections: " .. #connections .. "\n\n" .. table_text(rows)
	if #connections > ROWS_MAX or #list > ROWS_MAX then
		text = text .. "\nOnly the first " .. ROWS_MAX .. " are shown.\n"
	end
	return text .. "\nBytes of plaintext that the process sent and received; of these, lost are not in the file.\n"
end

local function ask_for_process()
	new_dialog("Show only this process", function(pid)
		pid = (pid or ""):match("(%d+)")
		if pid then show_only(pid) end
	end, "Process id")
end

local BUTTONS = 4

local function open_table()
	local window = TextWindow.new("Processes and connections")
	if index then advance() end
	if #connections == 0 then
		window:set("There are no packets of tls2pcap in this file, or no file is open.\n\n"
			.. "A compressed file is recognised once it is unpacked, or with the profile tls2pcap.")
		return
	end
	-- Bytes and requests are counted only now: that would cost at loading.
	local counter = Listener.new("frame", "frame.interface_name || http.request || http2.headers.method")
	function counter.reset()
		for _, c in ipairs(connections) do
			c.requests, c.sent, c.received = 0, 0, 0
			for _, share in pairs(c.by_pid) do share.requests, share.sent, share.received = 0, 0, 0 end
		end
	end
	function counter.packet(pinfo, tvb)
		local c = of_frame[pinfo.number]
		if not c then return end
		local note = notes[pinfo.number]
		local caller = note and note.caller
		local share = share_of(c, (caller or c.known).pid or 0, caller or c.known)
		local key, ip = ends(tvb, c.at)
		-- All else that is made up stands in the place of bytes that are missing.
		local payload = key and not (note and note.synthetic == "h2-preface") and payload_of(ip) or 0
		local way = pinfo.p2p_dir == P2P_DIR_SENT and "sent" or "received"
		c[way], share[way] = c[way] + payload, share[way] + payload
		for _, info in ipairs({ all_field_infos() }) do
			if info.name == "http.request" or info.name == "http2.headers.method" then
				c.requests = c.requests + 1
				share.requests = share.requests + 1
			end
		end
	end
	function counter.draw() window:set(report(processes())) end
	window:set_atclose(function() counter:remove() end)
	retap_packets()
	-- Those who said most.
	for i, p in ipairs(processes()) do
		if i > BUTTONS then
			window:add_button("Another...", ask_for_process)
			break
		end
		window:add_button("Only " .. who(p.known), function() show_only(p.known.pid) end)
	end
	window:add_button("All", function()
		set_filter("")
		apply_filter()
	end)
end

register_menu("tls2pcap/Processes and connections", open_table, MENU_TOOLS_UNSORTED)
register_menu("tls2pcap/Show only this process...", ask_for_process, MENU_TOOLS_UNSORTED)
if register_packet_menu then
	register_packet_menu("tls2pcap/Show only this process", function(...)
		for _, info in ipairs({ ... }) do
			if info.name == "tls2pcap.pid" then return show_only(tostring(info.value)) end
		end
	end, "tls2pcap.pid")
end
