/* Opened from disk, a page may not read other pages: the search lists titles only instead of failing to quote them. */
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
