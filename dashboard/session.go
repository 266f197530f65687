package dashboard

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/weir-dev/weir/controllers/access"
)

const (
	sessionCookie = "weir"
	saidCookie    = "weir-said"
	// sessionLife bounds a session whose token lives longer.
	sessionLife = 12 * time.Hour
	// maxCookieBytes is what browsers keep, less the cookie's name.
	maxCookieBytes = 4000
	// secretHeader is how a proxy proves itself without a certificate.
	secretHeader = "X-Weir-Proxy-Secret"
)

// Forwarded says whom to believe who a user is.
type Forwarded struct {
	// UserHeader and GroupsHeader name the user; without the former nobody is
	// believed.
	UserHeader, GroupsHeader string
	// Secret that the proxy sends as X-Weir-Proxy-Secret; nil: none.
	Secret []byte
	// Certificate: a client certificate that was verified is proof, too.
	Certificate bool
}

// sealer keeps what only this program, or others with its key, may read and make.
type sealer struct{ key []byte }

// newSealer uses a key of 32 bytes or more; nil: a new one.
func newSealer(key []byte) (*sealer, error) {
	if key == nil {
		key = make([]byte, 32)
		_, _ = rand.Read(key) // never fails
	}
	if len(key) < 32 {
		return nil, fmt.Errorf("the key of sessions has %d bytes: want at least 32", len(key))
	}
	return &sealer{key}, nil
}

// derive is a key for one purpose.
func (s *sealer) derive(purpose string) []byte {
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(purpose))
	return mac.Sum(nil)
}

func (s *sealer) aead(purpose string) cipher.AEAD {
	block, err := aes.NewCipher(s.derive(purpose))
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}

type sealed struct {
	Text  string `json:"t"`
	Until int64  `json:"u"` // Unix seconds
}

func (s *sealer) seal(purpose, text string, life time.Duration) string {
	plain, err := json.Marshal(sealed{text, time.Now().Add(life).Unix()})
	if err != nil {
		panic(err) // a string and a number
	}
	return base64.RawURLEncoding.EncodeToString(s.aead(purpose).Seal(nil, nil, plain, nil))
}

func (s *sealer) open(purpose, text string) (string, bool) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return "", false
	}
	plain, err := s.aead(purpose).Open(nil, nil, raw, nil)
	var found sealed
	if err != nil || json.Unmarshal(plain, &found) != nil || time.Now().Unix() > found.Until {
		return "", false
	}
	return found.Text, true
}

// csrf proves that a form came from a page that this visitor was given.
func (s *sealer) csrf(who string) string {
	mac := hmac.New(sha256.New, s.derive("csrf"))
	mac.Write([]byte(who))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// errNobody: the request says not who it is from.
var errNobody = errors.New("no token was given")

// identify has a reviewer say who asks. ambient: a browser sends the proof by itself, so that
// actions need a token of the page's.
func (s *Server) identify(r *http.Request, by *access.Reviewer) (user *access.User, who string, ambient bool, err error) {
	if header := r.Header.Get("Authorization"); header != "" {
		scheme, token, _ := strings.Cut(header, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return nil, "", false, access.ErrUnauthenticated
		}
		user, err = by.Identify(r.Context(), strings.TrimSpace(token))
		return user, "token " + token, false, err
	}
	if user := s.o.Forwarded.user(r); user != nil {
		return user, "user " + user.Username, true, nil
	}
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return nil, "", false, errNobody
	}
	token, ok := s.sealer.open("session", cookie.Value)
	if !ok {
		return nil, "", false, access.ErrUnauthenticated
	}
	user, err = by.Identify(r.Context(), token)
	return user, "token " + token, true, err
}

// user that a trusted proxy names; nil: none. Those of Kubernetes itself it may
// not name.
func (f *Forwarded) user(r *http.Request) *access.User {
	if f.UserHeader == "" {
		return nil
	}
	name := r.Header.Get(f.UserHeader)
	proven := f.Certificate && r.TLS != nil && len(r.TLS.VerifiedChains) > 0 ||
		f.Secret != nil && subtle.ConstantTimeCompare([]byte(r.Header.Get(secretHeader)), f.Secret) == 1
	if name == "" || !proven || strings.HasPrefix(name, "system:") {
		return nil
	}
	user := &access.User{Username: name, Groups: []string{"system:authenticated"}}
	if f.GroupsHeader != "" {
		for _, value := range r.Header.Values(f.GroupsHeader) {
			for group := range strings.SplitSeq(value, ",") {
				if group = strings.TrimSpace(group); group != "" && !strings.HasPrefix(group, "system:") {
					user.Groups = append(user.Groups, group)
				}
			}
		}
	}
	return user
}

// login keeps a token that the API server accepts in a cookie that only this
// program can read.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	token := strings.TrimSpace(r.PostFormValue("token"))
	next := local(r.PostFormValue("next"))
	_, err := s.reading.Identify(r.Context(), token)
	value := s.sealer.seal("session", token, sessionLife)
	switch {
	case errors.Is(err, access.ErrUnauthenticated):
		s.askWho(w, r, next, "The API server does not accept this token: it has expired, is of another cluster, or is not whole.")
	case err != nil:
		s.o.Logger.Error(err, "cannot say whose token it is")
		s.askWho(w, r, next, "The API server cannot be asked whose token this is. Try again in a moment.")
	case len(value) > maxCookieBytes:
		s.askWho(w, r, next, "The token is too long for a browser's cookie. Have kubectl create token make one of a service account.")
	default:
		s.setCookie(w, r, sessionCookie, value, 0)
		http.Redirect(w, r, next, http.StatusSeeOther)
	}
}

func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	s.setCookie(w, r, sessionCookie, "", -1)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (s *Server) setCookie(w http.ResponseWriter, r *http.Request, name, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || s.o.BehindTLS,
	})
}

// local is an address of this page, whatever is asked for.
func local(next string) string {
	if !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.ContainsAny(next, "\\\r\n\t") {
		return "/"
	}
	return next
}
