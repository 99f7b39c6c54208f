-- SPDX-License-Identifier: MIT
--
-- NAME
--     mailseal.lua - Dovecot passdb and userdb that ask mailseal's key agent
--
-- SYNOPSIS
--     Dovecot 2.4   passdb mailseal { driver = lua  lua_file = …/mailseal.lua }
--     Dovecot 2.3   passdb { driver = lua  args = file=…/mailseal.lua cache_key=%u%{session} }
--
-- DESCRIPTION
--     auth_password_verify(request, password) is the passdb.  As the only passdb, mailseal's
--     keyring is the password check.  Behind another passdb (`result_success = continue-ok`
--     there, `skip = unauthenticated` here) it adds the user's key to a login that the other
--     passdb has already accepted; Dovecot tells us which of the two it is.
--
--     auth_userdb_lookup(request) is the userdb: who is enrolled, and the public key, so that
--     Dovecot's own LMTP seals what it stores.  It never gives out a private key.
--
--     Needs lua-socket.  The agent is asked over its unix socket: one line out, one line back,
--     words separated by one space, `name=value` with the value in lower-case hex.
--
-- SETTINGS
--     `lua_settings { socket = …  timeout = … }` in 2.4; 2.3 has no settings for Lua, there
--     `import_environment = $import_environment MAILSEAL_SOCKET=…` names another socket.
--
-- DIAGNOSTICS
--     What is not a clear yes or no is PASSDB_RESULT_INTERNAL_FAILURE: the client is told of a
--     temporary failure, never of a wrong password.  The log gets one sentence.  No message
--     holds a password, a key or anything the agent sent but its own reason.
--
-- AUTH CACHE
--     2.4 caches a Lua passdb only if the script defines a cache key; this one does not, on
--     purpose: a cached answer would outlive `mailseal lock` and a changed password.  2.3
--     caches under %u unless told otherwise (only with auth_cache_size > 0), so the 2.3 passdb
--     line above makes every session its own cache entry; an empty `cache_key=` crashes 2.3.19
--     there.  The userdb takes it, and is not cached.  Who logs in to 2.3 without a session,
--     as Postfix does to let a client send, is cached there as with any passdb.

local socket_unix = require "socket.unix"

local socket_path = os.getenv("MAILSEAL_SOCKET") or "/run/mailseal/agent.sock"

-- Seconds for one whole question.  Longer than the agent lets an unlock wait for a free
-- Argon2id run, shorter than Dovecot's own patience with an auth worker (60 s).
local timeout = 30

local MAX_REQUEST, MAX_REPLY = 65536, 4 * 1024 * 1024

function script_init(settings)
  if settings and settings.socket then socket_path = settings.socket end
  if settings and settings.timeout then timeout = tonumber(settings.timeout) end
  return 0
end

local function to_hex(bytes)
  return (bytes:gsub(".", function(c) return string.format("%02x", c:byte()) end))
end

local function from_hex(hex)
  return (hex:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

-- Take a reply apart.  Returns status and fields, or nil: whatever is not exactly of the
-- form is no answer, because half an answer must not open or close a mailbox.
local function parse_reply(line)
  if #line > MAX_REPLY then return nil end
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

local function connect()
  local sock = (type(socket_unix) == "table" and socket_unix.stream or socket_unix)()
  sock:settimeout(timeout, "t")
  local ok, err = sock:connect(socket_path)
  if not ok then
    sock:close()
    return nil, err
  end
  return sock
end

-- Ask the agent.  Returns status, fields; or nil and a sentence for the log.
local function ask(verb, question)
  local words = { verb }
  for _, pair in ipairs(question) do
    words[#words + 1] = pair[1] .. "=" .. to_hex(pair[2] or "")
  end
  local line = table.concat(words, " ") .. "\n"
  if #line > MAX_REQUEST then return nil, "the question is too long for the key agent" end
  local sock, err = connect()
  if not sock then
    return nil, "cannot reach the key agent at " .. socket_path .. ": " .. tostring(err)
  end
  local answer
  if sock:send(line) then answer, err = sock:receive("*l") end
  sock:close()
  if not answer then
    return nil, "no answer from the key agent at " .. socket_path .. ": " .. tostring(err)
  end
  local status, fields = parse_reply(answer)
  if not status then return nil, "the key agent's answer is not understood" end
  return status, fields
end

-- The agent's refusals, as sentences for the log.
local function explain(status, fields)
  if status == "temporary" then
    return "temporary failure of the key agent: " .. (fields.reason or "no reason given")
  elseif status == "denied" then
    return "the key agent does not serve this uid; see agent.login_users in mailseal.yaml"
  end
  return "the key agent answered " .. status
end

local function verify(request, password)
  local auth = dovecot.auth
  -- True when a passdb before us has accepted this login.
  local accepted = request.skip_password_check
  local question = {
    { "user", request.user },
    { "password", password },
    { "service", request.protocol or request.service },
    { "remote", request.remote_ip or request.rip },
    { "mechanism", request.mechanism or request.mech },
  }
  if accepted then question[#question + 1] = { "behind", "1" } end
  local master = request.master_user
  if master and master ~= "" then question[#question + 1] = { "master", master } end
  local status, fields = ask("unlock", question)
  if status == nil then return auth.PASSDB_RESULT_INTERNAL_FAILURE, fields end
  if status == "ok" then
    local reply = {}
    for name, value in pairs(fields) do
      -- Behind another passdb the name is its matter: a userdb may tell case apart.
      if name ~= "user" then
        reply["userdb_" .. name] = value
      elseif not accepted then
        reply.user = value
      end
    end
    return auth.PASSDB_RESULT_OK, reply
  end
  if status == "wrong" then return auth.PASSDB_RESULT_PASSWORD_MISMATCH, "wrong password" end
  if status == "unknown" then
    if accepted then return auth.PASSDB_RESULT_OK, {} end
    return auth.PASSDB_RESULT_USER_UNKNOWN, "not enrolled"
  end
  return auth.PASSDB_RESULT_INTERNAL_FAILURE, explain(status, fields)
end

local function lookup(request)
  local auth = dovecot.auth
  local question = { { "user", request.user }, { "service", request.protocol or request.service } }
  local master = request.master_user
  if master and master ~= "" then question[#question + 1] = { "master", master } end
  local status, fields = ask("lookup", question)
  if status == nil then return auth.USERDB_RESULT_INTERNAL_FAILURE, fields end
  if status == "ok" then
    fields.user = nil
    return auth.USERDB_RESULT_OK, fields
  end
  if status == "unknown" then return auth.USERDB_RESULT_USER_UNKNOWN, "not enrolled" end
  return auth.USERDB_RESULT_INTERNAL_FAILURE, explain(status, fields)
end

-- A fault in the script itself is a temporary failure too, and Dovecot must not log its text:
-- Lua quotes the values it stumbles over.
function auth_password_verify(request, password)
  local good, result, reply = pcall(verify, request, password)
  if good then return result, reply end
  return dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE, "mailseal.lua: internal error"
end

function auth_userdb_lookup(request)
  local good, result, reply = pcall(lookup, request)
  if good then return result, reply end
  return dovecot.auth.USERDB_RESULT_INTERNAL_FAILURE, "mailseal.lua: internal error"
end

-- Asked when a mechanism gives no plain password (CRAM-MD5, SCRAM) or by a static userdb.
function auth_passdb_lookup(request)
  return dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE,
    "the password is needed to open the keyring; allow PLAIN and LOGIN only"
end
