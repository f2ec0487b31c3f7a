package config

import (
	"errors"
	"maps"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"
)

// environment finds variables; an empty one counts as not set.
type environment func(name string) (string, bool)

func (e environment) get(name string) (v value, set bool) {
	text, _ := e(name)
	return value{text, Origin{Layer: LayerEnvironment, Name: name}}, text != ""
}

// or is get with a text for a variable that is not set.
func (e environment) or(name, otherwise string) value {
	v, set := e.get(name)
	if !set {
		v.text = otherwise
	}
	return v
}

// readEnvironment is the layer of the environment.
func (l *loader) readEnvironment(src Source) {
	env := environment(src.Lookup)
	for _, o := range l.schema.leaves() {
		set := slices.ContainsFunc(o.variables(), func(name string) bool {
			return l.readVariable(env, o, name)
		})
		if !set && o.path == "database.url" {
			l.readDatabaseParts(env, o)
		}
	}
	l.checkNames(src)
}

// readVariable sets o from one of its variables. It reports whether that was
// set, be it to a good value or to a bad one.
func (l *loader) readVariable(env environment, o *option, name string) bool {
	v, set, ok := l.find(env, o, name)
	if !ok {
		return set
	}
	if name == "PORT" {
		if !validPort(v.text) {
			l.refuse(o, v.at, o.complain(errPort, v.text), errPort)
			return true
		}
		v.text = ":" + v.text
	}
	l.setWords(o, v)
	return true
}

var errPort = errors.New("must be a port number, 0 to 65535")

// find reads a variable or, for a secret, the file that its _FILE variant names.
// Where the variable is set but cannot be used, ok is false and the mistake is
// reported.
func (l *loader) find(env environment, o *option, name string) (v value, set, ok bool) {
	v, set = env.get(name)
	if !o.secret() {
		return v, set, set
	}
	file, byFile := env.get(name + fileSuffix)
	switch {
	case !byFile:
		return v, set, set
	case set:
		l.refuse(o, file.at, "is set together with "+name+"; keep one of them", nil)
		return v, true, false
	}
	data, err := readConfigFile(file.text)
	text := trimNewline(string(data))
	switch {
	// The name is not repeated: it is the secret itself where the suffix was one
	// too many.
	case err != nil:
		l.refuse(o, file.at, "the file it names cannot be read: "+reason(err).Error(), reason(err))
	case text == "":
		l.refuse(o, file.at, "the file it names is empty", nil)
	default:
		return value{text, file.at}, true, true
	}
	return v, true, false
}

// trimNewline drops the one line end that an editor or echo leaves behind.
func trimNewline(text string) string {
	return strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
}

// splitWords splits the text of a list at commas and line ends.
func splitWords(text string) []string {
	var words []string
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		if word = strings.TrimSpace(word); word != "" {
			words = append(words, word)
		}
	}
	return words
}

// Variables that together name a database, as the official PostgreSQL image and
// many deployments have them.
const (
	dbHost     = "DB_HOST"
	dbPort     = "DB_PORT"
	dbSSLMode  = "DB_SSLMODE"
	dbUser     = "POSTGRES_USER"
	dbPassword = "POSTGRES_PASSWORD"
	dbName     = "POSTGRES_DB"
)

// readDatabaseParts composes the URL of the database from its parts. As in the
// official image, the user is postgres and the database is named for the user
// where nothing else is said.
func (l *loader) readDatabaseParts(env environment, o *option) {
	host, set := env.get(dbHost)
	if !set {
		return
	}
	password, set, ok := l.find(env, o, dbPassword)
	if set && !ok {
		return
	}
	port, mode := databasePort(env), env.or(dbSSLMode, "")
	user := env.or(dbUser, "postgres")
	name := env.or(dbName, user.text)
	switch {
	case !validPort(port.text):
		l.refuse(o, port.at, errPort.Error(), errPort)
	case !path.IsAbs(host.text) && !validHost(strings.ToLower(host.text)):
		l.refuse(o, host.at, "must be a host name, an address or the folder of a socket, without port", nil)
	case mode.text != "" && !slices.Contains(sslModes(), mode.text):
		l.refuse(o, mode.at, "must be one of "+strings.Join(sslModes(), ", "), nil)
	default:
		l.setText(o, value{databaseURL(host.text, port.text, user.text, password.text, name.text, mode.text), host.at})
	}
}

// sslModes are the values of sslmode that libpq knows.
func sslModes() []string {
	return []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
}

// databasePort is the port among the parts. Kubernetes sets DB_PORT to a URL,
// tcp://10.0.0.1:5432, in every pod beside a service that is named db.
func databasePort(env environment) value {
	v := env.or(dbPort, "5432")
	if strings.HasPrefix(v.text, "tcp://") {
		v.text = v.text[strings.LastIndexByte(v.text, ':')+1:]
	}
	return v
}

// databaseURL puts the parts together, each escaped. A host that is a folder is
// the place of a Unix socket.
func databaseURL(host, port, user, password, name, mode string) string {
	query := url.Values{}
	if mode != "" {
		query.Set("sslmode", mode)
	}
	u := url.URL{Scheme: "postgres", User: url.User(user), Path: "/" + name}
	if password != "" {
		u.User = url.UserPassword(user, password)
	}
	if path.IsAbs(host) {
		query.Set("host", host)
		query.Set("port", port)
	} else {
		u.Host = net.JoinHostPort(host, port)
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// orphanedPart names a variable that describes a database of which no host is
// known, or "". To ignore it would silently start on another database.
func orphanedPart(env environment) string {
	if _, set := env.get(dbHost); set {
		return ""
	}
	for _, name := range []string{dbUser, dbPassword, dbPassword + fileSuffix, dbName, dbSSLMode} {
		if _, set := env.get(name); set {
			return name
		}
	}
	return ""
}

// checkNames reports KEYWARDEN_ variables that nobody reads.
func (l *loader) checkNames(src Source) {
	known := l.variableNames()
	set := map[string]bool{}
	for _, entry := range src.Environ {
		name, _, _ := strings.Cut(entry, "=")
		set[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		mine := strings.HasPrefix(name, envPrefix)
		if !mine || slices.Contains(known, name) || slices.Contains(src.Reserved, name) || isServiceLink(name, set) {
			continue
		}
		at := Origin{Layer: LayerEnvironment, Name: name}
		l.fail(at, "", "unknown variable"+suggest(name, known), nil)
	}
}

// variableNames lists every variable that an option is read from.
func (l *loader) variableNames() []string {
	var names []string
	for _, o := range l.schema.leaves() {
		for _, name := range o.variables() {
			names = append(names, name)
			if o.secret() {
				names = append(names, name+fileSuffix)
			}
		}
	}
	return names
}

// isServiceLink reports whether Kubernetes sets the variable in every pod of the
// namespace, because there is a service named keywarden or keywarden-something:
// <SERVICE>_SERVICE_HOST, _SERVICE_PORT, _SERVICE_PORT_<NAME>, _PORT and
// _PORT_<N>_<PROTO>_<PART>. The first of them is always there and tells.
func isServiceLink(name string, set map[string]bool) bool {
	for i := len(envPrefix) - 1; i < len(name); i++ {
		if name[i] != '_' || !set[name[:i]+"_SERVICE_HOST"] {
			continue
		}
		switch rest := name[i:]; {
		case rest == "_SERVICE_HOST", rest == "_SERVICE_PORT", rest == "_PORT",
			strings.HasPrefix(rest, "_SERVICE_PORT_"), strings.HasPrefix(rest, "_PORT_"):
			return true
		}
	}
	return false
}
