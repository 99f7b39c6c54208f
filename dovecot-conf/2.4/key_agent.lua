-- SPDX-License-Identifier: MIT
--
-- NAME
--     key_agent.lua - asks mailseal-agent, for mailseal.lua
--
-- DESCRIPTION
--     Sends one line to the agent's unix socket and reads one line: words separated by one space,
--     `name=value` with the value in lower-case hex.  Needs lua-socket.

-- Not "socket": that is 20 KB more in memory.  Dovecot collects the garbage after each call, and this takes
-- longer the more there is.
local socket = require "socket.core"
local socket_unix = require "socket.unix"

local agent = {}

local MAX_REQUEST, MAX_ANSWER = 65536, 4 * 1024 * 1024

-- Tables of all bytes would be faster for long values, but slow down all calls: see above.
local function to_hex(bytes)
  return (("%02x"):rep(#bytes):format(bytes:byte(1, -1)))
end

-- Seven bytes at a time, as many as fit into a positive integer.
local SEVEN = ("%x"):rep(14)

local function seven(hex) return (">I7"):pack(tonumber(hex, 16)) end

local function one(hex) return string.char(tonumber(hex, 16)) end

local function from_hex(hex)
  local whole = #hex - #hex % #SEVEN
  return hex:sub(1, whole):gsub(SEVEN, seven) .. hex:sub(whole + 1):gsub("..", one)
end

-- Parse an answer.  Returns status and fields, or nil if it is not complete and valid.
local function parse_answer(line)
  if #line > MAX_ANSWER then return nil end
  local status, rest = line:match("^(%l+)(.*)$")
  if not status then return nil end
  local fields, words = {}, 0
  for name, hex in rest:gmatch(" ([%w_.*/+-]+)=([0-9a-f]*)%f[\0 ]") do
    if #hex % 2 ~= 0 or fields[name] ~= nil then return nil end
    fields[name] = from_hex(hex)
    words = words + #name + #hex + 2
  end
  if words ~= #rest then return nil end
  return status, fields
end

-- Few connections may wait until the agent accepts them (login/startup.py).  So an agent that hangs
-- holds few of Dovecot's auth workers, and users who are not enrolled find a free one.  An agent that
-- works accepts them at once: try again for one second.
local TRIES, PAUSE = 20, 0.05

-- A socket on which the line was sent; or nil and a sentence for the log.
local function connected(socket_path, seconds, line)
  local sent, err
  for try = 1, TRIES do
    if try > 1 then socket.sleep(PAUSE) end
    local sock = (type(socket_unix) == "table" and socket_unix.stream or socket_unix)()
    sock:settimeout(seconds, "t")
    local ok, why = sock:connect(socket_path)
    -- lua-socket notices only when it sends that no more connections may wait
    if ok then sent, err = sock:send(line) end
    if sent then return sock end
    sock:close()
    if not ok then return nil, why end
  end
  return nil, "too many connections wait: " .. tostring(err)
end

-- Returns status, fields; or nil and a sentence for the log.
function agent.ask(socket_path, seconds, verb, question)
  local words = { verb }
  for _, pair in ipairs(question) do
    words[#words + 1] = pair[1] .. "=" .. to_hex(pair[2] or "")
  end
  local line = table.concat(words, " ") .. "\n"
  if #line > MAX_REQUEST then return nil, "the request is too long for the key agent" end
  local sock, err = connected(socket_path, seconds, line)
  if not sock then
    return nil, "cannot reach the key agent at " .. socket_path .. ": " .. tostring(err)
  end
  local answer
  answer, err = sock:receive("*l")
  sock:close()
  if not answer then
    return nil, "no answer from the key agent at " .. socket_path .. ": " .. tostring(err)
  end
  local status, fields = parse_answer(answer)
  if not status then return nil, "the key agent sent an invalid answer" end
  return status, fields
end

-- The agent's error answers, as sentences for the log.
function agent.explain(status, fields)
  if status == "temporary" then
    return "temporary failure of the key agent: " .. (fields.reason or "no reason given")
  elseif status == "denied" then
    return "the key agent does not serve this uid; see agent.login_users in mailseal.yaml"
  end
  return "the key agent answered " .. status
end

return agent
