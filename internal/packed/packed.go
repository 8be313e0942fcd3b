// Package packed makes shell scripts small enough for user data, and shows them in clear again.
package packed

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// Pack gives a line of bash that runs the script in the shell that reads the line. The same script is the same line, whenever and
// wherever it is packed by the same release of Go.
func Pack(script string) (string, error) {
	encoded, err := Encode(script)
	return "source <(base64 -d <<<'" + encoded + "' | gunzip)\n", err
}

// Encode gives the text that "base64 -d | gunzip" makes the script of.
func Encode(script string) (string, error) {
	var content bytes.Buffer
	writer, err := gzip.NewWriterLevel(&content, gzip.BestCompression) // no name and no time: they stay out of its header
	if err != nil {
		return "", err
	}
	if _, err := io.WriteString(writer, script); err != nil {
		return "", err
	}
	if err := writer.Close(); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(content.Bytes()), nil
}

var line = regexp.MustCompile(`(?m)^source <\(base64 -d <<<'([A-Za-z0-9+/=]+)' \| gunzip\)\n`)

// Unpack gives a text with every packed script in clear.
func Unpack(text string) (string, error) {
	var failed error
	clear := line.ReplaceAllStringFunc(text, func(found string) string {
		content, err := Decode(line.FindStringSubmatch(found)[1])
		if err != nil && failed == nil {
			failed = fmt.Errorf("a packed script: %w", err)
		}
		return content
	})
	return clear, failed
}

// Decode gives the script of such a text.
func Decode(encoded string) (string, error) {
	reader, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(encoded)))
	if err != nil {
		return "", err
	}
	content, err := io.ReadAll(reader)
	return string(content), err
}
