# SPDX-License-Identifier: MIT
# What the mail servers in this folder have in common.  Each script of this folder makes a machine with Debian's
# Postfix and Dovecot such a server.  It is written in our own words: it sets what the project's published
# configuration sets, as far as it concerns where mail is stored, how it is delivered and how users log in.
# Left out: spam filters, policy services that are not Dovecot's, and the web.  Users: alice and carol.


# Dovecot's and Postfix's configuration as Debian's packages install it.
fresh() {
    systemctl stop dovecot postfix
    systemctl stop mariadb
    rm -rf /etc/dovecot/conf.d /var/vmail
    cp -a /usr/share/dovecot/conf.d /usr/share/dovecot/dovecot.conf /etc/dovecot/
    rm -f /etc/dovecot/conf.d/99-local.conf
    chown -R root:root /etc/dovecot
    chmod 755 /etc/dovecot /etc/dovecot/conf.d
    cp /usr/share/postfix/main.cf.debian /etc/postfix/main.cf
    cp /usr/share/postfix/master.cf.dist /etc/postfix/master.cf
    # As Debian's installation asks for; a test has no time for the usual delays, and sends nothing.
    postconf -e myhostname=mail.example.org inet_interfaces=all inet_protocols=ipv4 mydestination=localhost \
        'mynetworks = 127.0.0.0/8' 'default_transport = error:5.1.2 this machine sends nothing' \
        smtpd_peername_lookup=no minimal_backoff_time=2s maximal_backoff_time=4s queue_run_delay=2s \
        transport_retry_time=1s compatibility_level=3.6
    # The same for wrong passwords.
    printf '%s\n' 'auth_failure_delay = 0' 'service anvil {' '  unix_listener anvil-auth-penalty {' '    mode = 0' \
        '  }' '}' >/etc/dovecot/conf.d/11-test.conf
    cp -n /etc/aliases /etc/postfix/aliases 2>/dev/null || true
    newaliases
}

# certificate FOLDER: a self-signed one, cert.pem and key.pem
certificate() {
    mkdir -p "$1"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=mail.example.org \
        -keyout "$1/key.pem" -out "$1/cert.pem" 2>/dev/null
    chmod 600 "$1/key.pem"
}

# hashed NAME: how the user's password is stored
hashed() {
    doveadm pw -s SHA512-CRYPT -r 5000 -p "$1's password" 2>/dev/null
}

# database NAME: an empty one in MariaDB; the SQL comes from standard input
database() {
    systemctl start mariadb
    { echo "DROP DATABASE IF EXISTS $1; CREATE DATABASE $1; USE $1;"; cat; } | mariadb
}

# reader NAME: a user of MariaDB who may read and write one database
reader() {
    echo "GRANT ALL ON $1.* TO '$1'@'127.0.0.1' IDENTIFIED BY 'secret'; \
        GRANT ALL ON $1.* TO '$1'@'localhost' IDENTIFIED BY 'secret'; FLUSH PRIVILEGES" | mariadb
}

# map FILE QUERY: a table of Postfix in MariaDB, database mailserver unless $database says otherwise
map() {
    printf '%s\n' "user = ${database:-mailserver}" 'password = secret' 'hosts = 127.0.0.1' \
        "dbname = ${database:-mailserver}" "query = $2" >"/etc/postfix/$1"
    chown root:postfix "/etc/postfix/$1"
    chmod 640 "/etc/postfix/$1"
}

# Start the servers, and wait until they answer.  $1: what starts daemons
started() {
    doveconf -n >/dev/null
    postfix check
    "${1:-systemctl}" start dovecot postfix
    for _ in $(seq 1200); do
        [ -S /run/dovecot/auth-userdb ] && (: </dev/tcp/127.0.0.1/25) 2>/dev/null && return
        sleep 0.1
    done
    echo 'Postfix or Dovecot does not answer' >&2
    return 1
}
