package client

import (
	"sync"

	"github.com/go-logr/logr/funcr"
	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// quieten is there because klog's logger belongs to the process and may be set
// only once.
var quieten sync.Once

// RedirectLog sends what client-go logs to log, at debug level. It repeats
// itself at every attempt, with words that differ by attempt; what is worth
// saying is said by this package, once.
func RedirectLog(log logrus.FieldLogger) {
	quieten.Do(func() {
		klog.SetLogger(funcr.New(func(name, text string) {
			log.WithFields(logrus.Fields{"logger": name, "text": text}).Debug("client-go")
		}, funcr.Options{}))
	})
}
