-- Latchkey's passdb for Dovecot 2.3 (package dovecot-auth-lua): asks the agent on this host over HTTP.
-- docs/mail-servers.md has what is asked and answered. An error here is "try later" to the mail client.

-- Where the agent listens (--http-listen), and the file with its secret (--http-secret-file). The variables reach
-- this script only if Dovecot's import_environment names them.
local URL = os.getenv("LATCHKEY_URL") or "http://127.0.0.1:9000/login"
local SECRET_FILE = os.getenv("LATCHKEY_SECRET_FILE") or "/etc/latchkey/http-secret"

-- The agent answers within 8 seconds, or says that it has no answer.
local client = dovecot.http.client({
  user_agent = "dovecot-latchkey",
  connect_timeout_msecs = 2000,
  request_timeout_msecs = 12000,
  request_absolute_timeout_msecs = 15000,
  max_attempts = 2,
  no_auto_redirect = true,
})

local secret = nil

function script_init()
  local file = io.open(SECRET_FILE, "r")
  if file ~= nil then
    secret = file:read("l")
    file:close()
  end
  return 0
end

function script_deinit()
end

-- Every byte but letters and digits, so that no password can end a field or the body.
local function encode(text)
  return (text:gsub("[^A-Za-z0-9]", function(byte)
    return string.format("%%%02X", string.byte(byte))
  end))
end

local function later(request, why)
  request:log_error("latchkey: no answer: " .. why)
  return dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE, {}
end

function auth_password_verify(request, password)
  local question = client:request({ url = URL, method = "POST" })
  question:add_header("Content-Type", "application/x-www-form-urlencoded")
  if secret ~= nil then
    question:add_header("Latchkey-Key", secret)
  end
  local body = {
    "user=" .. encode(request.user),
    "password=" .. encode(password),
    "protocol=" .. encode(request.service),
  }
  if request.rip ~= nil and request.rip ~= "" then
    table.insert(body, "rip=" .. encode(request.rip))
  end
  if request.session ~= nil and request.session ~= "" then
    table.insert(body, "session=" .. encode(request.session))
  end
  question:set_payload(table.concat(body, "&"))

  local response = question:submit()
  if response:status() ~= 200 then
    return later(request, response:status() .. " " .. (response:reason() or ""))
  end
  local answer = {}
  for name, value in string.gmatch(response:payload() or "", "([a-z_]+)=([^\n]*)\n") do
    answer[name] = value
  end

  if answer.result == "ok" and answer.user ~= nil and answer.admission ~= nil then
    return dovecot.auth.PASSDB_RESULT_OK, {
      user = answer.user,
      -- The agent finds these again when the mail process asks who its client is.
      userdb_latchkey_session = answer.admission,
      userdb_latchkey_service = request.service,
      userdb_latchkey_rip = request.rip or "",
    }
  elseif answer.result == "denied" then
    request:log_info("latchkey: denied: " .. (answer.reason or ""))
    return dovecot.auth.PASSDB_RESULT_PASSWORD_MISMATCH, {}
  end
  return later(request, answer.error or "the agent has none")
end
