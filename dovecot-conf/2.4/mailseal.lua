-- SPDX-License-Identifier: MIT
--
-- NAME
--     mailseal.lua - Dovecot passdb and userdb of mailseal
--
-- SYNOPSIS
--     Dovecot 2.4   passdb mailseal { driver = lua  lua_file = …/mailseal.lua }
--     Dovecot 2.3   passdb { driver = lua  args = file=…/mailseal.lua cache_key=%u%{session} }
--
-- DESCRIPTION
--     auth_password_verify(request, password) is the passdb.  Behind another passdb
--     (`result_success = continue-ok` there) it adds the keys to a login that the other
--     passdb has accepted.  It also accepts app passwords, which are in the keyring only.
--     With `only` there is no other passdb: the keyring is the only password check.
--
--     auth_userdb_lookup(request) is the userdb.  It must be the last one, because it needs
--     Dovecot's final user name.  It decides how mail is saved:
--       not enrolled      saving in clear is permitted explicitly; otherwise Dovecot refuses it.  With
--                         `site_key`: returns that public key instead, and mail is sealed with it
--       enrolled          returns the public key, and fields that load mail_crypt; it fails if
--                         another userdb returns fields with which Dovecot would not seal
--       enrolled, login   the same, but only if the passdb has returned the keys of this user;
--                         otherwise the login is refused (see refusal())
--
--     public_keys.lua reads the public keys of enrolled users from the local store.  key_agent.lua asks
--     the agent, if a password must be checked.  So users who are not enrolled, and all lookups without
--     a password, need no agent.
--
--     Both run in auth workers.  In the auth process (2.3: blocking=no) a userdb lookup takes 0.20 ms
--     instead of 0.25, and a login as long as before; but a slow file system would stop all logins.
--
--     Needs lua-socket.
--
-- SETTINGS
--     `lua_settings { socket = …  public = …  timeout = …  only = yes  site_key = … }` in 2.4.  2.3 has no
--     settings for Lua; there `import_environment = $import_environment MAILSEAL_SOCKET=…
--     MAILSEAL_PUBLIC=… MAILSEAL_ONLY=yes MAILSEAL_SITE_KEY=…`.
--
--     site_key is for sites that seal the mail of all users with one key of mail_crypt: the PEM file of
--     its public key.  Dovecot's own settings must not have this key: then a process that has
--     not asked this userdb cannot seal the mail of an enrolled user with it either.
--
-- DIAGNOSTICS
--     Without a definite result, it returns PASSDB_RESULT_INTERNAL_FAILURE: the client gets a
--     temporary failure, never a wrong password.  One sentence is logged.  No message contains
--     a password or a key, or anything from the agent except its reason.
--
-- AUTH CACHE
--     2.4 caches the result of a Lua passdb only if the script defines a cache key.  This one does
--     not: a cached result would still be valid after `mailseal lock` or a password change.  2.3
--     caches with the key %u by default (if auth_cache_size > 0), so the 2.3 passdb line above has
--     a separate entry for each session; an empty `cache_key=` in a passdb crashes 2.3.19.  In a
--     userdb it is allowed, and turns caching off.  Logins without a session, such as Postfix's
--     SASL logins, are cached in 2.3 as with any passdb.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local keys = dofile(folder .. "public_keys.lua")
local agent = dofile(folder .. "key_agent.lua")

local socket_path = os.getenv("MAILSEAL_SOCKET") or "/run/mailseal/agent.sock"
local public_dir = os.getenv("MAILSEAL_PUBLIC") or "/var/lib/mailseal/public"

-- Whether the keyring is the only password check.
local only = os.getenv("MAILSEAL_ONLY") == "yes"

-- The file with the public key that seals the mail of users who are not enrolled; nil: it is in clear.
local site_key = os.getenv("MAILSEAL_SITE_KEY")

-- Seconds for one request.  Longer than an unlock can wait for Argon2id in the agent, shorter
-- than Dovecot's time limit for an auth worker (60 s).
local timeout = 30

-- The same for enrollment at login, where the login does not depend on the answer.
local short_timeout = 5

-- Names of Dovecot's settings.  Only 2.4 gives settings to a script.
local dovecot_24 = false

function script_init(settings)
  dovecot_24 = settings ~= nil
  settings = settings or {}
  socket_path = settings.socket or socket_path
  public_dir = settings.public or public_dir
  only = only or settings.only == "yes"
  site_key = settings.site_key or site_key
  timeout = tonumber(settings.timeout) or timeout
  return 0
end

-- Ask the agent.  Returns status, fields; or nil and a sentence for the log.
local function ask(verb, question, seconds)
  return agent.ask(socket_path, seconds or timeout, verb, question)
end

-- Mail formats that mail_crypt seals.
local SEALABLE = { maildir = true, sdbox = true, mdbox = true, dbox = true }

local function service_of(request)
  return request.protocol or request.service
end

local function public_field()
  return dovecot_24 and "crypt_global_public_key_file" or "mail_crypt_global_public_key"
end

-- Fields for users who are not enrolled: Dovecot stores mail in clear, or seals it with the key of the
-- site.  nil and a sentence if that key cannot be read.
local function plain_fields()
  if not site_key then
    if dovecot_24 then return { crypt_write_algorithm = "" } end
    return { mail_crypt_save_version = "0" }
  end
  local pem, problem = keys.read_file(site_key)
  if not pem or not pem:find("^%-%-%-%-%-BEGIN PUBLIC KEY%-%-%-%-%-\n") then
    return nil, "site_key: " .. (problem or site_key .. " is not a public key in PEM format")
  end
  if dovecot_24 then
    return {
      crypt_write_algorithm = "aes-256-gcm-sha256",
      ["*/crypt_write_algorithm"] = "aes-256-gcm-sha256",
      [public_field()] = "inline:" .. pem,
    }
  end
  return { mail_crypt_save_version = "2", [public_field()] = pem }
end

-- mail_crypt does not seal mbox.  With a kind of lock that Dovecot does not know, its process ends
-- before it reads or writes an mbox file, with this word in the log.  Other formats have no such locks.
local NO_MBOX = "mail_crypt_cannot_seal_mbox"

-- mail_crypt does not seal attachments that sdbox and mdbox store in files of their own.  In 2.4 an
-- empty folder makes them a part of the mail.  In 2.3 a userdb field cannot be empty; so these files
-- get a folder that cannot exist, and Dovecot refuses to save such a mail, with this path in the log.
local NOWHERE = "posix:prefix=/dev/null/mail_crypt_cannot_seal_attachments"

-- Fields with which Dovecot seals what it stores, even if a userdb or a `protocol` block
-- has left mail_crypt out of mail_plugins or has no algorithm.  In 2.4 a userdb field does not
-- override what a `protocol` block says, unless its name begins with "*/".
local function sealing_fields(key)
  if dovecot_24 then
    return {
      crypt_write_algorithm = "aes-256-gcm-sha256",
      [public_field()] = key,
      ["*/crypt_write_algorithm"] = "aes-256-gcm-sha256",
      ["*/mail_plugins/mail_crypt"] = "yes",
      mbox_write_locks = NO_MBOX,
      ["*/mbox_write_locks"] = NO_MBOX,
      mail_ext_attachment_path = "",
      ["*/mail_ext_attachment_path"] = "",
    }
  end
  return {
    mail_crypt_save_version = "2",
    [public_field()] = key,
    ["mail_plugins+"] = " mail_crypt",
    mbox_write_locks = NO_MBOX,
    mail_attachment_fs = NOWHERE,
  }
end

-- The public key in the format of Dovecot's userdb field.
local function spelled(spki, key_id)
  local key = "2:" .. spki .. ":" .. key_id
  return dovecot_24 and "inline:" .. key or key
end

-- Whether a user is enrolled: "enrolled" and the public key, or "none" if certainly not, or nil
-- and a sentence for the log.
local function published(user)
  local state, spki, key_id = keys.look_up(public_dir, user)
  if state == "enrolled" then return state, spelled(spki, key_id) end
  return state, spki
end

-- Whether a password has the form of an app password (mailseal/keys/codes.py).  The agent checks it;
-- for a login password that has this form by chance, the agent is asked without need.
local function looks_like_app_password(password)
  if #password > 100 then return false end
  local letters = password:gsub("[- ]", "")
  return #letters == 32 and not letters:find("[^0-9a-tv-zA-TV-Z]")
end

local function unlock(request, password, extra, seconds)
  local question = {
    { "user", request.user },
    { "password", password },
    { "service", service_of(request) },
    { "remote", request.remote_ip or request.rip },
    { "mechanism", request.mechanism or request.mech },
  }
  for _, pair in ipairs(extra) do question[#question + 1] = pair end
  return ask("unlock", question, seconds)
end

-- The keys of a login as passdb fields.  If there is another passdb, it returns the user name.
local function key_fields(fields)
  local found = {}
  for name, value in pairs(fields) do
    if name ~= "user" then
      found["userdb_" .. name] = value
    elseif only then
      found.user = value
    end
  end
  return found
end

-- For the keyring as the only password check.
local function verify_alone(request, password)
  local auth = dovecot.auth
  local status, fields = unlock(request, password, {})
  if status == nil then return auth.PASSDB_RESULT_INTERNAL_FAILURE, fields end
  if status == "ok" then return auth.PASSDB_RESULT_OK, key_fields(fields) end
  if status == "wrong" then return auth.PASSDB_RESULT_PASSWORD_MISMATCH, "wrong password" end
  if status == "unknown" then return auth.PASSDB_RESULT_USER_UNKNOWN, "not enrolled" end
  return auth.PASSDB_RESULT_INTERNAL_FAILURE, agent.explain(status, fields)
end

-- Another passdb has refused the password; it may be an app password.
local function verify_refused(request, password)
  local auth = dovecot.auth
  if not looks_like_app_password(password) then
    return auth.PASSDB_RESULT_USER_UNKNOWN, "not an app password"
  end
  local state, problem = published(request.user)
  if state == nil or state == "unknown" then
    return auth.PASSDB_RESULT_INTERNAL_FAILURE, problem
  end
  if state == "none" then return auth.PASSDB_RESULT_USER_UNKNOWN, "not enrolled" end
  local status, fields = unlock(request, password, { { "app", "1" } })
  if status == nil then return auth.PASSDB_RESULT_INTERNAL_FAILURE, fields end
  if status == "ok" then return auth.PASSDB_RESULT_OK, key_fields(fields) end
  if status == "wrong" or status == "unknown" then
    return auth.PASSDB_RESULT_USER_UNKNOWN, "not an app password"
  end
  return auth.PASSDB_RESULT_INTERNAL_FAILURE, agent.explain(status, fields)
end

-- Another passdb has accepted the login: returns the user's keys, if there are any.  Without
-- keys, the userdb, which gets the final user name, decides whether the login is refused.
local function verify_accepted(request, password)
  local auth = dovecot.auth
  local state, problem = published(request.user)
  if state == nil then return auth.PASSDB_RESULT_INTERNAL_FAILURE, problem end
  local extra, master = { { "behind", "1" } }, request.master_user
  if master and master ~= "" then extra[#extra + 1] = { "master", master } end
  local seconds = nil
  if state == "none" or state == "unknown" then
    if not keys.exists(public_dir .. "/enroll-at-login") then return auth.PASSDB_RESULT_OK, {} end
    seconds = short_timeout
  end
  local status, fields = unlock(request, password, extra, seconds)
  if status == "ok" then return auth.PASSDB_RESULT_OK, key_fields(fields) end
  if status == "unknown" or state ~= "enrolled" then return auth.PASSDB_RESULT_OK, {} end
  if status == nil then return auth.PASSDB_RESULT_INTERNAL_FAILURE, fields end
  return auth.PASSDB_RESULT_INTERNAL_FAILURE, agent.explain(status, fields)
end

local function verify(request, password)
  if only then return verify_alone(request, password) end
  -- True if a passdb before this one has accepted the login.
  if request.skip_password_check then return verify_accepted(request, password) end
  return verify_refused(request, password)
end

-- The name of a field of another userdb with which Dovecot would not seal, although this one
-- returns the key; or nil.  (delivery/dovecot/sealing.py has the whole list, for what is relayed.)
local function undoing(request)
  local names = dovecot_24
      and { "mail_plugins", "*/mail_plugins", "mail_plugin_dir", "*/mail_plugin_dir",
        "mail_ext_attachment_path", "*/mail_ext_attachment_path" }
    or { "plugin/mail_crypt_save_version", "plugin/mail_crypt_global_public_key", "mail_plugin_dir",
      "mail_attachment_dir" }
  for _, name in ipairs(names) do
    if request.userdb[name] then return name end
  end
  local locations = dovecot_24 and { "mail_driver", "*/mail_driver", "namespace/inbox/mail_driver" }
    or { "mail", "mail_location", "namespace/inbox/location" }
  for _, name in ipairs(locations) do
    local format = (request.userdb[name] or ""):match("^[^:]*")
    if format ~= "" and not SEALABLE[format] then return name end
  end
end

-- Why a lookup of an enrolled user is refused, or nil.  `key` is the user's public key, `given` the
-- one that the passdb has returned at a login.  It is nil if mailseal's passdb was not asked, was
-- asked with another name, or if the user was enrolled after that.
local function refusal(request, key, given)
  local mechanism, master = request.mechanism or request.mech, request.master_user
  local undone = undoing(request)
  if undone then return "the userdb field " .. undone .. " may turn sealing off" end
  if not mechanism or mechanism == "" then return nil end -- no login: a delivery, doveadm
  if given == key then return nil end
  if master and master ~= "" then
    if service_of(request) ~= "pop3" then
      request:log_warning("no key: master user <" .. master .. ">")
      return nil
    end
    return "no POP3 for a master user: Dovecot would return empty mails"
  end
  if given then
    return "the login has another key than this host seals with: a userdb has changed the name, "
      .. "or the user got a new key pair just now"
  end
  return "the login of an enrolled user came without the user's key: is mailseal's passdb "
    .. "asked, and before any userdb changes the name? Or was the user enrolled just now?"
end

-- The replica of the public keys cannot say whether the user is enrolled.  Mail for the user waits.
-- The user can log in and read: without any fields, Dovecot refuses to save mail.  Not by POP3: if
-- the user is enrolled on another host, Dovecot would hand out empty mails.
local function uncertain(request, given, why)
  local auth, mechanism = dovecot.auth, request.mechanism or request.mech
  local is_login = mechanism and mechanism ~= ""
  if only or given or not is_login or service_of(request) == "pop3" then
    return auth.USERDB_RESULT_INTERNAL_FAILURE, why
  end
  request:log_warning("no mail can be saved in this session: " .. why)
  return auth.USERDB_RESULT_OK, {}
end

local function lookup(request)
  local auth = dovecot.auth
  local state, key = published(request.user)
  if state == nil then return auth.USERDB_RESULT_INTERNAL_FAILURE, key end
  local given = request.userdb[public_field()]
  if state == "unknown" then return uncertain(request, given, key) end
  if state == "none" then
    if only then return auth.USERDB_RESULT_USER_UNKNOWN, "not enrolled" end
    if given then
      return auth.USERDB_RESULT_INTERNAL_FAILURE,
        "the login has a key, but the user is not enrolled on this host: a userdb has changed the "
        .. "name, or the user was enrolled or unenrolled just now"
    end
    local fields, problem = plain_fields()
    if not fields then return auth.USERDB_RESULT_INTERNAL_FAILURE, problem end
    return auth.USERDB_RESULT_OK, fields
  end
  local why = refusal(request, key, given)
  if why then return auth.USERDB_RESULT_INTERNAL_FAILURE, why end
  return auth.USERDB_RESULT_OK, sealing_fields(key)
end

-- An error in this script is a temporary failure too.  Dovecot must not log its text, because
-- Lua's error messages contain values.
function auth_password_verify(request, password)
  local good, result, fields = pcall(verify, request, password)
  if good then return result, fields end
  return dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE, "mailseal.lua: internal error"
end

function auth_userdb_lookup(request)
  local good, result, fields = pcall(lookup, request)
  if good then return result, fields end
  return dovecot.auth.USERDB_RESULT_INTERNAL_FAILURE, "mailseal.lua: internal error"
end

-- For `doveadm user '*'` and `-A`: the other userdbs list their users, this one adds none.
function auth_userdb_iterate()
  return {}
end

-- Called if a mechanism has no plain password (CRAM-MD5, SCRAM), or by a static userdb.
function auth_passdb_lookup(request)
  return dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE,
    "the password is needed to open the keyring; allow PLAIN and LOGIN only"
end
