// Package nodestate is the on-disk contract between multi-eni and multi-enid: the inventory, the attachment records,
// the restore records, the device locks and the daemon's checkpoint.
//
// Every file is replaced by an atomic rename inside its folder, carries a schemaVersion, and is read without following
// a symbolic link in its last component, and only when it belongs to root or to the reading process's user and nobody
// else may write it. Lock files are separate and never deleted.
//
// Functions are safe for use by several processes at once where their comment names the lock that makes them so.
package nodestate
