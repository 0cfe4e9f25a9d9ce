'use strict'
// Latchkey for Haraka: the agent of this host judges each SMTP login, and judges the session again
// at MAIL, RCPT, DATA and the end of the data. A session whose password was revoked is answered 421
// and closed. deploy/haraka/README.md has the steps.

const fs = require('node:fs')
const http = require('node:http')
const DSN = require('haraka-dsn')

// The agent takes 10 s at most.
const TIMEOUT_MS = 12_000
const MAX_ANSWER_BYTES = 16_384

exports.register = function () {
    this.inherits('auth/auth_base')
    // The password is in no note of the connection.
    this.blankout_password = true
    const cfg = this.config.get('latchkey.ini')
    this.url = cfg.main.url || 'http://127.0.0.1:9000'
    this.key = cfg.main.key_file ? fs.readFileSync(cfg.main.key_file, 'utf8').split('\n')[0].trim() : ''
    this.agent = new http.Agent({ keepAlive: true, maxSockets: 64 })
}

exports.hook_capabilities = function (next, connection) {
    // Only mechanisms that hand over the password, and only inside TLS.
    if (!connection.tls.enabled) return next()
    connection.capabilities.push('AUTH PLAIN LOGIN')
    connection.notes.allowed_auth_methods = ['PLAIN', 'LOGIN']
    next()
}

exports.check_plain_passwd = function (connection, user, password, done) {
    const fields = { user, password, protocol: 'smtp', rip: connection.remote.ip, session: connection.uuid }
    this.ask('/login', fields, (answer) => {
        if (answer.result === 'ok') {
            connection.notes.latchkey_admission = answer.admission
            return done(true)
        }
        connection.loginfo(this, `login of ${JSON.stringify(user)}: ${answer.result} ${answer.reason || answer.error || ''}`)
        if (answer.result === 'denied') return done(false)
        done(false, { code: 454, message: '4.7.0 Temporary authentication failure' })
    })
}

exports.hook_mail = exports.hook_rcpt = exports.hook_data = exports.hook_data_post = function (next, connection) {
    const admission = connection.notes.latchkey_admission
    // Nobody has logged in: the other plugins say what is allowed then.
    if (!admission) return next()
    this.ask('/check', { admission }, (answer) => {
        if (answer.result === 'ok') return next()
        if (answer.result === 'ended') {
            connection.loginfo(this, `the session ends: ${answer.reason}`)
            return next(DENYDISCONNECT, DSN.create(421, 'Your password was revoked', 7, 0))
        }
        next(DENYSOFT, DSN.create(451, 'Temporary authentication failure', 7, 0))
    })
}

// Asks the agent, and calls back once with its answer's fields. Whatever goes wrong is { result: 'later' }.
exports.ask = function (path, fields, done) {
    const encode = (text) => Array.from(Buffer.from(String(text)), (byte) => `%${byte.toString(16).padStart(2, '0')}`).join('')
    const body = Object.entries(fields).map(([name, value]) => `${name}=${encode(value)}`).join('&')
    let finish = (answer) => {
        finish = () => {}
        done(answer)
    }
    const later = (error) => finish({ result: 'later', error: String(error) })
    const headers = { 'Content-Length': Buffer.byteLength(body), 'Content-Type': 'application/x-www-form-urlencoded' }
    if (this.key) headers['Latchkey-Key'] = this.key
    const options = { method: 'POST', headers, agent: this.agent, timeout: TIMEOUT_MS }
    const request = http.request(`${this.url}${path}`, options, (response) => {
        let text = ''
        response.setEncoding('utf8')
        response.on('error', later)
        response.on('aborted', () => later('the answer broke off'))
        response.on('data', (piece) => {
            text += piece
            if (text.length > MAX_ANSWER_BYTES) request.destroy(new Error('the answer is too long'))
        })
        response.on('end', () => {
            const answer = {}
            for (const line of text.split('\n')) {
                const at = line.indexOf('=')
                if (at > 0) answer[line.slice(0, at)] = line.slice(at + 1)
            }
            if (response.statusCode !== 200 || !answer.result) return later(answer.error || `status ${response.statusCode}`)
            finish(answer)
        })
    })
    request.on('timeout', () => request.destroy(new Error('no answer in time')))
    request.on('error', later)
    request.end(body)
}
