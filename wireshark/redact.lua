-- Wireshark plugin of tls2pcap: Tools > tls2pcap > Redacted copy of this file, which runs `tls2pcap redact` and opens
-- what it wrote.
--
-- For Wireshark 4.0 or later (Lua 5.2 to 5.4). `tls2pcap wireshark install` puts it in place.
--
-- No function of these releases tells which file is open. Linux shows it: Wireshark keeps the file open to read packets
-- again, so it is among the descriptors of the process. Where that shows none or several, the name is asked for.

if not gui_enabled() then return end

local TITLE = "Redacted copy"
local DESCRIPTORS_MAX = 4096
-- How capture files begin that `tls2pcap redact` reads: pcapng, pcap in both orders and units, gzip.
local MAGICS = {
	["\n\r\r\n"] = true, ["\xd4\xc3\xb2\xa1"] = true, ["\xa1\xb2\xc3\xd4"] = true, ["\x4d\x3c\xb2\xa1"] = true,
	["\xa1\xb2\x3c\x4d"] = true,
}

local function contents(path, len)
	local file = io.open(path, "rb")
	if not file then return nil end
	local text = file:read(len)
	file:close()
	return text
end

local function exists(path)
	local file = io.open(path, "rb")
	if file then file:close() end
	return file ~= nil
end

-- One word for the shell, whatever is in it.
local function quoted(text)
	return "'" .. text:gsub("'", "'\\''") .. "'"
end

-- What a command writes, and whether it succeeded.
local function output_of(command)
	local pipe = io.popen(command .. " 2>&1", "r")
	if not pipe then return "the shell cannot be run\n", false end
	local said = pipe:read("*a") or ""
	return said, pipe:close() == true
end

-- Paths of the capture files that this process has open and has read from.
local function open_files()
	local pid = (contents("/proc/self/stat", 64) or ""):match("^(%d+)")
	local there, descriptors = pcall(Dir.open, "/proc/self/fdinfo")
	local numbers = {}
	if pid and there and descriptors then
		for name in descriptors do
			local position = (contents("/proc/self/fdinfo/" .. name, 256) or ""):match("pos:%s*(%d+)")
			-- A pipe has no position, and must not be read from.
			if position and tonumber(position) > 0 and #numbers < DESCRIPTORS_MAX then
				local magic = contents("/proc/self/fd/" .. name, 4) or ""
				if MAGICS[magic] or magic:sub(1, 2) == "\x1f\x8b" then numbers[#numbers + 1] = name end
			end
		end
		descriptors:close()
	end
	local paths, seen = {}, {}
	for _, name in ipairs(numbers) do
		local path = output_of("readlink /proc/" .. pid .. "/fd/" .. name):gsub("\n$", "")
		if path:sub(1, 1) == "/" and not seen[path] and exists(path) then
			seen[path] = true
			paths[#paths + 1] = path
		end
	end
	return paths
end

-- The program: where `tls2pcap wireshark install` has put a link to it, else wherever the shell finds it.
local function program()
	for _, path in ipairs({
		(os.getenv("HOME") or "") .. "/.local/lib/wireshark/extcap/tls2pcap",
		Dir.personal_config_path("extcap/tls2pcap"),
	}) do
		if exists(path) then return quoted(path) end
	end
	return "tls2pcap"
end

-- A name beside the file that nothing has yet.
local function copy_name(path, ending)
	local base = path:gsub("%.gz$", ""):gsub("%.pcapng$", ""):gsub("%.pcap$", ""):gsub("%.cap$", "")
	for number = 1, 999 do
		local name = base .. "-redacted" .. (number > 1 and "-" .. number or "") .. ending
		if not exists(name) then return name end
	end
	return nil
end

local function show(text, path)
	local window = TextWindow.new(TITLE)
	window:set(text)
	if path then window:add_button("Open it", function() open_capture_file(path, "") end) end
end

local function redact(path)
	path = (path or ""):gsub("^%s+", ""):gsub("%s+$", "")
	if path == "" then return end
	if not exists(path) then return show(path .. ": there is no such file, or it cannot be read.\n") end
	local said
	-- The copy has the format of the file, and only tls2pcap knows what is in a compressed one.
	for _, ending in ipairs({ ".pcapng", ".pcap" }) do
		local name = copy_name(path, ending)
		if not name then return show("There are too many copies of " .. path .. ".\n") end
		local good
		said, good = output_of(program() .. " redact " .. quoted(path) .. " -o " .. quoted(name))
		if good then
			return show(name .. "\n\n" .. said .. "\nLook through it before you publish it: `tls2pcap redact --help` says what it "
				.. "cannot promise.\n", name)
		end
		if not said:find("the input is classic pcap", 1, true) then break end
	end
	local hint = said:find("not found", 1, true)
		and "\nWireshark does not find tls2pcap: `tls2pcap wireshark install` links to it.\n" or ""
	show("No copy of " .. path .. " was made.\n\n" .. said .. hint)
end

register_menu("tls2pcap/Redacted copy of this file", function()
	local paths = open_files()
	if #paths == 1 then return redact(paths[1]) end
	new_dialog(TITLE, redact, #paths == 0 and "Capture file (none is open)" or "Capture file (several are open)")
end, MENU_TOOLS_UNSORTED)
