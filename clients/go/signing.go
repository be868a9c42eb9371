package toril

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// tolerance is how old or new a signed request may be.
const tolerance = 5 * time.Minute

// readSecrets returns the keys of Standard Webhooks secrets. Its error does not repeat them.
func readSecrets(secrets []string) ([][]byte, error) {
	keys := make([][]byte, len(secrets))
	for n, secret := range secrets {
		text, prefixed := strings.CutPrefix(secret, "whsec_")
		key, err := base64.StdEncoding.DecodeString(text)
		if !prefixed || err != nil || len(key) < 24 || len(key) > 64 {
			return nil, errors.New("toril: a secret is whsec_ and 24 to 64 bytes in Base64")
		}
		keys[n] = key
	}
	return keys, nil
}

// verify checks that a body was signed with one of the keys, and within five minutes of now.
func verify(header http.Header, body []byte, keys [][]byte, now time.Time) *Error {
	id, at, signatures := header.Get("webhook-id"), header.Get("webhook-timestamp"), header.Get("webhook-signature")
	seconds, err := strconv.ParseUint(at, 10, 40)
	if id == "" || signatures == "" || err != nil {
		return notSigned("the request is not signed")
	}
	if apart := now.Sub(time.Unix(int64(seconds), 0)); apart > tolerance || apart < -tolerance {
		return notSigned("the request was signed more than five minutes from now")
	}
	for _, key := range keys {
		code := hmac.New(sha256.New, key)
		code.Write([]byte(id + "." + at + "."))
		code.Write(body)
		wanted := []byte("v1," + base64.StdEncoding.EncodeToString(code.Sum(nil)))
		for _, signature := range strings.Split(signatures, " ") {
			if hmac.Equal([]byte(signature), wanted) { // in constant time
				return nil
			}
		}
	}
	return notSigned("the request's signature is wrong")
}

func notSigned(message string) *Error {
	return &Error{Code: "unauthorized", Message: message, Status: http.StatusUnauthorized}
}
