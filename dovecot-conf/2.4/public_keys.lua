-- SPDX-License-Identifier: MIT
--
-- NAME
--     public_keys.lua - mailseal's local store of public keys, read by mailseal.lua
--
-- DESCRIPTION
--     mailseal/keys/public.py describes the store, mailseal/keys/names.py the names of the files.  All
--     key files are formatted in the same way, so a pattern can read them.
--
--     look_up(folder, user) returns one of
--       "enrolled", spki, key_id     in hex
--       "none"                       the user is certainly not enrolled: the folder is the right
--                                    store, there is no key file and no enrolled mark, and of a
--                                    replica the lease is in force (mailseal/keys/lease.py)
--       "unknown", sentence          the same, but the lease of the replica has ended
--       nil, sentence                everything else: no store, a missing key, a damaged file

local keys = {}

local sha256 = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "sha256.lua")

-- Longer names of files are cut after PREFIX bytes, and end in a hash.
local MAX_FILE_NAME, PREFIX = 200, 120

local ENOENT, EACCES = 2, 13

keys.NOT_ONE_SPELLING = "the user name has capital letters, and an enrolled user has the same name in "
  .. "lower case: auth_username_format must convert names to lower case"
local FOLDER_MARK = "mailseal public keys, version 1\n"
local REPLICA_MARK = "^mailseal public keys, replica, version 1\n(.*)$"
local KEY_FILE = '^{\n "format": "mailseal%-public%-key",\n "version": 1,\n "user": (".-"),\n'
  .. ' "key_id": "([0-9a-f]+)",\n "spki": "([0-9a-f]+)"\n}\n$'

-- As in mailseal/keys/names.py.  For names that are not allowed there (not UTF-8, control
-- characters), the result is a file name that no key file has.
local function file_name(user)
  local escaped = user:gsub("[^a-z0-9@_+.-]", function(c) return ("%%%02x"):format(c:byte()) end)
  escaped = escaped:gsub("^%.", "%%2e")
  if #escaped <= MAX_FILE_NAME then return escaped end
  return escaped:sub(1, PREFIX) .. "~" .. sha256(user)
end

-- In the format of Python's json.dumps.
local function json_string(text)
  local parts = {}
  for _, code in utf8.codes(text) do
    local c = code < 0x80 and string.char(code)
    if c then
      parts[#parts + 1] = (c == '"' or c == "\\") and "\\" .. c or c
    elseif code < 0x10000 then
      parts[#parts + 1] = ("\\u%04x"):format(code)
    else
      local rest = code - 0x10000
      parts[#parts + 1] = ("\\u%04x\\u%04x"):format(0xd800 + (rest >> 10), 0xdc00 + (rest & 0x3ff))
    end
  end
  return '"' .. table.concat(parts) .. '"'
end

-- The content of a file; nil if it does not exist, nil and a sentence if it cannot be read.
function keys.read_file(path)
  local stream, message, number = io.open(path, "rb")
  if not stream then
    if number == ENOENT then return nil end
    return nil, tostring(message)
  end
  local content, why = stream:read(16384)
  stream:close()
  if not content then return nil, path .. ": " .. tostring(why or "empty") end
  return content
end

-- Whether a file or folder exists; false and a sentence if this is unknown.
function keys.exists(path)
  local stream, message, number = io.open(path, "rb")
  if stream then
    stream:close()
    return true
  end
  if number == ENOENT then return false end
  return false, tostring(message)
end

-- Whether this is a folder, for those who may open files in it but not list it: mode 0711, and an
-- auth worker that is not root.  EACCES means that, if a name in the folder has given ENOENT before.
local function is_folder(path)
  local stream, _, number = io.open(path .. "/.", "rb")
  if stream then stream:close() end
  return stream ~= nil or number == EACCES
end

-- Seconds since the start of the machine, whatever time namespace this is: CLOCK_BOOTTIME.
local function uptime()
  local now = tonumber((keys.read_file("/proc/uptime") or ""):match("^(%d+%.%d+) "))
  local seconds, nanoseconds =
    (keys.read_file("/proc/self/timens_offsets") or ""):match("boottime%s+(-?%d+)%s+(%d+)")
  if now and seconds then now = now - tonumber(seconds) - tonumber(nanoseconds) / 1e9 end
  return now
end

-- Whether a folder with this mark may say "not enrolled" now.
local function is_current(mark)
  if mark == FOLDER_MARK then return true end
  local boot, till = mark:match(REPLICA_MARK):match("^([0-9a-f-]+) (%d+%.%d+)\n$")
  if not boot or keys.read_file("/proc/sys/kernel/random/boot_id") ~= boot .. "\n" then return false end
  local now = uptime()
  return now ~= nil and now < tonumber(till)
end

function keys.look_up(folder, user)
  local lower = user:gsub("[A-Z]", string.lower)
  local name = file_name(lower)
  local path = folder .. "/" .. name .. ".json"
  local content, problem = keys.read_file(path)
  if problem then return nil, problem end
  if not content then
    -- In this order: lease, mark, clock.
    local mark, ill = keys.read_file(folder .. "/mailseal-public-keys")
    local marked, odd = keys.exists(folder .. "/enrolled/" .. name)
    if odd then return nil, odd end
    if marked then return nil, "the public key is missing; run `mailseal repair " .. lower .. "`" end
    local right = mark and (mark == FOLDER_MARK or mark:find(REPLICA_MARK))
    if not right or not is_folder(folder .. "/enrolled") then
      return nil, folder .. " is not a folder of public keys" .. (ill and ": " .. ill or "")
    end
    if is_current(mark) then return "none" end
    return "unknown", "the replica of the public keys is not current"
  end
  local owner, key_id, spki = content:match(KEY_FILE)
  if owner ~= json_string(lower) or #key_id ~= 64 or #spki % 2 ~= 0 then
    return nil, path .. " is damaged, or from a newer version of mailseal"
  end
  -- Two accounts in Dovecot that differ only in case would have the same key.
  if lower ~= user then return nil, keys.NOT_ONE_SPELLING end
  return "enrolled", spki, key_id
end

return keys
